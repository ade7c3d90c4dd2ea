# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Examples for Flux, Klein and Qwen-Image-Edit."""

from __future__ import annotations

from example_workflows.graph import Graph, Link
from example_workflows.parts import PICTURE, finish, picture


def _flux_loaders(graph: Graph) -> tuple[Link, Link, Link]:
    model = graph.add("UNETLoader", unet_name="flux1-dev.safetensors", weight_dtype="default")
    clip = graph.add(
        "DualCLIPLoader",
        clip_name1="clip_l.safetensors",
        clip_name2="t5xxl_fp16.safetensors",
        type="flux",
        device="default",
    )
    vae = graph.add("VAELoader", vae_name="ae.safetensors")
    return model["MODEL"], clip["CLIP"], vae["VAE"]


def flux_words_and_negative(graph: Graph) -> None:
    """Flux: words with weights, and a negative prompt without cfg."""
    model, clip, vae = _flux_loaders(graph)
    negative = graph.add("CLIPTextEncode", clip=clip, text="people, blurry")
    guided = graph.add("AttentionPatchesNAG", model=model, negative=negative["CONDITIONING"])
    words = graph.add(
        "AttentionPatchesWordWeights",
        model=guided["MODEL"],
        clip=clip,
        text="a quiet harbour, (fishing boats:1.5), (clouds:0.3)",
    )
    strength = graph.add("FluxGuidance", conditioning=words["CONDITIONING"], guidance=3.5)
    latent = graph.add("EmptySD3LatentImage", width=1024, height=1024, batch_size=1)
    finish(
        *(graph, words["MODEL"], strength["CONDITIONING"], negative["CONDITIONING"]),
        latent["LATENT"],
        vae=vae,
        prefix="flux_words_and_negative",
        steps=20,
    )


def klein_reference_strength(graph: Graph) -> None:
    """Flux.2 Klein: how much two references count, the second in a part of the picture alone."""
    model = graph.add(
        "UNETLoader", unet_name="flux-2-klein-4b.safetensors", weight_dtype="default"
    )["MODEL"]
    clip = graph.add(
        "CLIPLoader", clip_name="qwen_3_4b.safetensors", type="flux2", device="default"
    )
    vae = graph.add("VAELoader", vae_name="flux2-vae.safetensors")["VAE"]
    prompt = graph.add(
        "CLIPTextEncode", clip=clip["CLIP"], text="the first picture in the light of the second"
    )
    positive, latents = prompt["CONDITIONING"], []
    for name in ("left.png", "right.png"):
        encoded = graph.add("VAEEncode", pixels=picture(graph, name), vae=vae)
        latents.append(encoded["LATENT"])
        joined = graph.add("ReferenceLatent", conditioning=positive, latent=latents[-1])
        positive = joined["CONDITIONING"]
    for reference, strength in ((0, 1.3), (1, 0.7)):
        model = graph.add(
            "AttentionPatchesReferenceStrength",
            model=model,
            strength=strength,
            reference=reference,
            end_at=0.8,
        )["MODEL"]
    negative = graph.add("ConditioningZeroOut", conditioning=positive)
    finish(
        *(graph, model, positive, negative["CONDITIONING"], latents[0]),
        vae=vae,
        prefix="klein_reference_strength",
        steps=4,
    )


def qwen_edit_regions(graph: Graph) -> None:
    """Qwen-Image-Edit: a text for one half of the picture, and a reference that counts more."""
    model = graph.add(
        "UNETLoader", unet_name="qwen_image_edit_2509.safetensors", weight_dtype="default"
    )
    clip = graph.add(
        "CLIPLoader",
        clip_name="qwen_2.5_vl_7b.safetensors",
        type="qwen_image",
        device="default",
    )["CLIP"]
    vae = graph.add("VAELoader", vae_name="qwen_image_vae.safetensors")["VAE"]
    edited = picture(graph, "reference.png")
    prompts = [
        graph.add("TextEncodeQwenImageEditPlus", clip=clip, prompt=text, vae=vae, image1=edited)
        for text in ("make it winter", "")
    ]
    region = graph.add("CLIPTextEncode", clip=clip, text="a lit window")
    half = graph.add("SolidMask", value=1.0, width=PICTURE // 2, height=PICTURE)
    nothing = graph.add("SolidMask", value=0.0, width=PICTURE, height=PICTURE)
    left = graph.add(
        "MaskComposite",
        destination=nothing["MASK"],
        source=half["MASK"],
        x=0,
        y=0,
        operation="add",
    )
    regional = graph.add(
        "AttentionPatchesRegionalPrompt",
        model=model["MODEL"],
        conditioning=prompts[0]["CONDITIONING"],
        region=region["CONDITIONING"],
        mask=left["MASK"],
    )
    strong = graph.add("AttentionPatchesReferenceStrength", model=regional["MODEL"], strength=1.2)
    latent = graph.add("VAEEncode", pixels=edited, vae=vae)
    finish(
        *(graph, strong["MODEL"], regional["CONDITIONING"], prompts[1]["CONDITIONING"]),
        latent["LATENT"],
        vae=vae,
        prefix="qwen_edit_regions",
        steps=20,
        cfg=2.5,
    )
