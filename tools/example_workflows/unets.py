# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Examples for SD1.5 and SDXL."""

from __future__ import annotations

from example_workflows.graph import Graph
from example_workflows.parts import PICTURE, finish, loaders, picture, sample, with_reference


def image_prompt(graph: Graph) -> None:
    """One picture as a prompt, for the first four fifths of sampling."""
    checkpoint, patched = with_reference(graph, weight=0.8, end_at=0.8)
    sample(graph, checkpoint, patched["MODEL"], "a portrait, soft light", "image_prompt")


def two_image_prompts(graph: Graph) -> None:
    """Two pictures, one for each half of the result."""
    checkpoint, adapter, encoder = loaders(graph)
    nothing = graph.add("SolidMask", value=0.0, width=PICTURE, height=PICTURE)
    half = graph.add("SolidMask", value=1.0, width=PICTURE // 2, height=PICTURE)
    left = graph.add(
        "MaskComposite",
        destination=nothing["MASK"],
        source=half["MASK"],
        x=0,
        y=0,
        operation="add",
    )
    right = graph.add("InvertMask", mask=left["MASK"])
    model = checkpoint["MODEL"]
    for name, mask in (("left.png", left["MASK"]), ("right.png", right["MASK"])):
        model = graph.add(
            "IPAdapterAdvanced",
            model=model,
            ipadapter=adapter,
            image=picture(graph, name),
            attn_mask=mask,
            clip_vision=encoder,
            weight=0.9,
        )["MODEL"]
    sample(graph, checkpoint, model, "two landscapes side by side", "two_image_prompts")


def combined_embeds(graph: Graph) -> None:
    """Weigh and average the features of two pictures, and save them for later as well."""
    checkpoint, adapter, encoder = loaders(graph)
    features = [
        graph.add(
            "IPAdapterEncoder",
            ipadapter=adapter,
            image=picture(graph, name),
            weight=weight,
            clip_vision=encoder,
        )
        for name, weight in (("reference.png", 1.0), ("left.png", 0.5))
    ]
    positive, negative = (
        graph.add(
            "IPAdapterCombineEmbeds",
            embed1=features[0][side],
            embed2=features[1][side],
            method="average",
        )["EMBEDS"]
        for side in ("pos_embed", "neg_embed")
    )
    graph.add("IPAdapterSaveEmbeds", embeds=positive, filename_prefix="two_pictures")
    patched = graph.add(
        "IPAdapterEmbeds",
        model=checkpoint["MODEL"],
        ipadapter=adapter,
        pos_embed=positive,
        neg_embed=negative,
        clip_vision=encoder,
    )
    sample(graph, checkpoint, patched["MODEL"], "a still life", "combined_embeds")


def guidance_beside_a_prompt(graph: Graph) -> None:
    """Two kinds of self-attention guidance on a model that has an image prompt."""
    checkpoint, patched = with_reference(graph, weight=0.6)
    blurred = graph.add("AttentionPatchesSAG", model=patched["MODEL"], scale=0.5)
    perturbed = graph.add("AttentionPatchesPAG", model=blurred["MODEL"], scale=2.0)
    sample(graph, checkpoint, perturbed["MODEL"], "a quiet street at dawn", "guidance")


def fewer_tokens(graph: Graph) -> None:
    """Quicker self-attention for large pictures."""
    checkpoint = graph.add("CheckpointLoaderSimple", ckpt_name="v1-5-pruned-emaonly.safetensors")
    patched = graph.add("NearSightedAttentionSimple", model=checkpoint["MODEL"])
    sample(graph, checkpoint, patched["MODEL"], "a wide valley", "fewer_tokens")


def sdxl_words_and_negative(graph: Graph) -> None:
    """SDXL in few steps: words with weights, and a negative prompt at cfg 1."""
    checkpoint = graph.add("CheckpointLoaderSimple", ckpt_name="sd_xl_turbo_1.0.safetensors")
    negative = graph.add("CLIPTextEncode", clip=checkpoint["CLIP"], text="blurry, lowres")
    guided = graph.add(
        "AttentionPatchesNAG",
        model=checkpoint["MODEL"],
        negative=negative["CONDITIONING"],
        nag_scale=4.0,
    )
    words = graph.add(
        "AttentionPatchesWordWeights",
        model=guided["MODEL"],
        clip=checkpoint["CLIP"],
        text="a (red:1.4) hat on a wooden table, (fog:0.5)",
    )
    latent = graph.add("EmptyLatentImage", width=PICTURE, height=PICTURE, batch_size=1)
    finish(
        *(graph, words["MODEL"], words["CONDITIONING"], negative["CONDITIONING"]),
        latent["LATENT"],
        vae=checkpoint["VAE"],
        prefix="sdxl_words_and_negative",
        steps=4,
        sampler="euler_ancestral",
        scheduler="normal",
    )


def sweep(graph: Graph) -> None:
    """Weights and parts of sampling of an image prompt, every one with every seed."""
    checkpoint, patched = with_reference(graph)
    study = """\
name = "weights"

[[axes]]
"IPAdapterAdvanced.weight" = [0.4, 0.7, 1.0]

[[axes]]
join = "zip"
"IPAdapterAdvanced.start_at" = [0.0, 0.2]
"IPAdapterAdvanced.end_at" = [1.0, 0.8]

[[axes]]
"KSampler.seed" = [1, 2]
"""
    sample(graph, checkpoint, patched["MODEL"], "a portrait, soft light", "sweep", study)
