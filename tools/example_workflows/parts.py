# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What several examples have in common: loaders, the sampler, the saved picture."""

from __future__ import annotations

from typing import Any

from example_workflows.graph import Graph, Link, Node

PICTURE = 512


def picture(graph: Graph, name: str) -> Link:
    """Add a picture from a file."""
    return graph.add("LoadImage", image=name, upload="image")["IMAGE"]


def sample(
    graph: Graph, checkpoint: Node, model: Link, text: str, prefix: str, study: str | None = None
) -> None:
    """Add all from the prompt to the saved picture or the sweep, and the report."""
    positive = graph.add("CLIPTextEncode", clip=checkpoint["CLIP"], text=text)
    negative = graph.add("CLIPTextEncode", clip=checkpoint["CLIP"], text="blurry, lowres")
    latent = graph.add("EmptyLatentImage", width=PICTURE, height=PICTURE, batch_size=1)
    finish(
        *(graph, model, positive["CONDITIONING"], negative["CONDITIONING"], latent["LATENT"]),
        vae=checkpoint["VAE"],
        prefix=prefix,
        study=study,
        steps=25,
        cfg=6.0,
        sampler="dpmpp_2m",
        scheduler="karras",
    )


def finish(
    graph: Graph,
    model: Link,
    positive: Link,
    negative: Link,
    latent: Link,
    *,
    vae: Link,
    prefix: str,
    study: str | None = None,
    steps: int,
    cfg: float = 1.0,
    sampler: str = "euler",
    scheduler: str = "simple",
) -> None:
    """Add all from the conditionings to the saved picture or the sweep, and the report."""
    report = graph.add("AttentionPatchesReport", model=model)
    graph.add("PreviewAny", source=report["report"])
    sampled = graph.add(
        "KSampler",
        model=report["MODEL"],
        positive=positive,
        negative=negative,
        latent_image=latent,
        seed=1,
        control_after_generate="fixed",
        steps=steps,
        cfg=cfg,
        sampler_name=sampler,
        scheduler=scheduler,
        denoise=1.0,
    )
    decoded = graph.add("VAEDecode", samples=sampled["LATENT"], vae=vae)
    if study is None:
        graph.add("SaveImage", images=decoded["IMAGE"], filename_prefix=prefix)
        return
    swept = graph.add(
        "AttentionPatchesSweep",
        images=decoded["IMAGE"],
        study=study,
        folder=prefix,
        model=report["MODEL"],
    )
    graph.add("PreviewAny", source=swept["report"])
    read = graph.add("AttentionPatchesSweepResults", folder=swept["folder"])
    graph.add("PreviewImage", images=read["sheet"])


def loaders(graph: Graph) -> tuple[Node, Link, Link]:
    """Add what every example loads: checkpoint, adapter and image encoder."""
    checkpoint = graph.add("CheckpointLoaderSimple", ckpt_name="v1-5-pruned-emaonly.safetensors")
    adapter = graph.add("IPAdapterModelLoader", ipadapter_file="ip-adapter_sd15.safetensors")
    encoder = graph.add("CLIPVisionLoader", clip_name="CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors")
    return checkpoint, adapter["IPADAPTER"], encoder["CLIP_VISION"]


def with_reference(graph: Graph, **options: Any) -> tuple[Node, Node]:
    """Add a checkpoint, and a picture as a prompt of it."""
    checkpoint, adapter, encoder = loaders(graph)
    return checkpoint, graph.add(
        "IPAdapterAdvanced",
        model=checkpoint["MODEL"],
        ipadapter=adapter,
        image=picture(graph, "reference.png"),
        clip_vision=encoder,
        **options,
    )
