# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Write the example workflows for ComfyUI, or check that they are up to date.

Usage: ``python tools/example_workflows.py [--check]``. Each is written twice: as ComfyUI's editor
saves it, and in ``api/`` as its HTTP interface takes it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attnpatch.nodes import NODES
from attnpatch.nodes.spec import WIDGETS

FOLDER = Path(__file__).resolve().parent.parent / "comfyui/attnpatch_nodes/example_workflows"
PICTURE = 512

Inputs = dict[str, str]  # each input's name and kind
Outputs = list[tuple[str, str]]  # each output's name and kind

# The host's own nodes that the examples use. CONTROL is a widget of the editor alone.
CORE: dict[str, tuple[Inputs, Outputs]] = {
    "CheckpointLoaderSimple": (
        {"ckpt_name": "COMBO"},
        [("MODEL", "MODEL"), ("CLIP", "CLIP"), ("VAE", "VAE")],
    ),
    "CLIPVisionLoader": ({"clip_name": "COMBO"}, [("CLIP_VISION", "CLIP_VISION")]),
    "CLIPTextEncode": ({"clip": "CLIP", "text": "STRING"}, [("CONDITIONING", "CONDITIONING")]),
    "EmptyLatentImage": (
        {"width": "INT", "height": "INT", "batch_size": "INT"},
        [("LATENT", "LATENT")],
    ),
    "KSampler": (
        {
            "model": "MODEL",
            "positive": "CONDITIONING",
            "negative": "CONDITIONING",
            "latent_image": "LATENT",
            "seed": "INT",
            "control_after_generate": "CONTROL",
            "steps": "INT",
            "cfg": "FLOAT",
            "sampler_name": "COMBO",
            "scheduler": "COMBO",
            "denoise": "FLOAT",
        },
        [("LATENT", "LATENT")],
    ),
    "VAEDecode": ({"samples": "LATENT", "vae": "VAE"}, [("IMAGE", "IMAGE")]),
    "SaveImage": ({"images": "IMAGE", "filename_prefix": "STRING"}, []),
    "PreviewImage": ({"images": "IMAGE"}, []),
    "LoadImage": (
        {"image": "COMBO", "upload": "CONTROL"},
        [("IMAGE", "IMAGE"), ("MASK", "MASK")],
    ),
    "SolidMask": ({"value": "FLOAT", "width": "INT", "height": "INT"}, [("MASK", "MASK")]),
    "InvertMask": ({"mask": "MASK"}, [("MASK", "MASK")]),
    "MaskComposite": (
        {"destination": "MASK", "source": "MASK", "x": "INT", "y": "INT", "operation": "COMBO"},
        [("MASK", "MASK")],
    ),
    "PreviewAny": ({"source": "*"}, []),
    "UNETLoader": ({"unet_name": "COMBO", "weight_dtype": "COMBO"}, [("MODEL", "MODEL")]),
    "CLIPLoader": ({"clip_name": "COMBO", "type": "COMBO", "device": "COMBO"}, [("CLIP", "CLIP")]),
    "DualCLIPLoader": (
        {"clip_name1": "COMBO", "clip_name2": "COMBO", "type": "COMBO", "device": "COMBO"},
        [("CLIP", "CLIP")],
    ),
    "VAELoader": ({"vae_name": "COMBO"}, [("VAE", "VAE")]),
    "VAEEncode": ({"pixels": "IMAGE", "vae": "VAE"}, [("LATENT", "LATENT")]),
    "EmptySD3LatentImage": (
        {"width": "INT", "height": "INT", "batch_size": "INT"},
        [("LATENT", "LATENT")],
    ),
    "FluxGuidance": (
        {"conditioning": "CONDITIONING", "guidance": "FLOAT"},
        [("CONDITIONING", "CONDITIONING")],
    ),
    "ReferenceLatent": (
        {"conditioning": "CONDITIONING", "latent": "LATENT"},
        [("CONDITIONING", "CONDITIONING")],
    ),
    "ConditioningZeroOut": (
        {"conditioning": "CONDITIONING"},
        [("CONDITIONING", "CONDITIONING")],
    ),
    "TextEncodeQwenImageEditPlus": (
        {
            "clip": "CLIP",
            "prompt": "STRING",
            "vae": "VAE",
            "image1": "IMAGE",
            "image2": "IMAGE",
            "image3": "IMAGE",
        },
        [("CONDITIONING", "CONDITIONING")],
    ),
}
OURS = {spec.id: spec for spec in NODES}

# The editor draws a node's title above its position, a row for each socket and widget, and makes
# a node larger that shows a picture or a text of several lines: room is left for that.
TITLE, ROW, WIDTH = 30, 24, 340
BELOW = {
    "CLIPTextEncode": 120,
    "TextEncodeQwenImageEditPlus": 120,
    "AttentionPatchesWordWeights": 120,
    "AttentionPatchesSweep": 520,
    "AttentionPatchesSweepResults": 120,
    "LoadImage": 340,
    "SaveImage": 400,
    "PreviewImage": 400,
    "PreviewAny": 240,
}
SPACE_BESIDE, SPACE_BELOW = 80, 40


@dataclass(frozen=True)
class Link:
    """An output of a node of the graph."""

    node: int
    slot: int


@dataclass
class Node:
    """A node of the graph: links and widgets' values by input."""

    id: int
    type: str
    values: dict[str, Any]
    inputs: Inputs
    outputs: Outputs
    depth: int

    def __getitem__(self, name: str) -> Link:
        return Link(self.id, [output for output, _ in self.outputs].index(name))


@dataclass
class Graph:
    """A workflow."""

    nodes: list[Node] = field(default_factory=list)

    def add(self, kind: str, **values: Any) -> Node:
        """Add a node; inputs that are not given stay unconnected or get their default."""
        inputs, outputs = _shape(kind)
        unknown = values.keys() - inputs.keys()
        if unknown:
            raise ValueError(f"{kind}: it has no input {', '.join(sorted(unknown))}")
        links = [value for value in values.values() if isinstance(value, Link)]
        depth = max((self.nodes[link.node - 1].depth + 1 for link in links), default=0)
        if kind in OURS:
            missing = [i for i in OURS[kind].inputs if i.widget and i.id not in values]
            values |= {given.id: _default(given) for given in missing}
        node = Node(len(self.nodes) + 1, kind, values, inputs, outputs, depth)
        self.nodes.append(node)
        return node

    def api(self) -> dict[str, Any]:
        """Give the form that the HTTP interface takes."""

        def value(given: Any) -> Any:
            return [str(given.node), given.slot] if isinstance(given, Link) else given

        return {
            str(node.id): {
                "class_type": node.type,
                "inputs": {
                    name: value(node.values[name])
                    for name, kind in node.inputs.items()
                    if name in node.values and kind != "CONTROL"
                },
            }
            for node in self.nodes
        }

    def editor(self) -> dict[str, Any]:
        """Give the form that the editor saves."""
        links: list[list[Any]] = []
        outgoing: dict[Link, list[int]] = {}
        rows: dict[int, int] = {}
        drawn = []
        for node in self.nodes:
            sockets = [(n, k) for n, k in node.inputs.items() if k not in (*WIDGETS, "CONTROL")]
            # A widget that takes what another node gives has a socket beside it.
            widgets = [n for n, k in node.inputs.items() if k in (*WIDGETS, "CONTROL")]
            fed = [n for n in widgets if isinstance(node.values[n], Link)]
            inputs: list[dict[str, Any]] = []
            for slot, (name, kind) in enumerate([*sockets, *((n, node.inputs[n]) for n in fed)]):
                link = node.values.get(name)
                number = None
                if link is not None:
                    number = len(links) + 1
                    links.append([number, link.node, link.slot, node.id, slot, kind])
                    outgoing.setdefault(link, []).append(number)
                inputs.append({"name": name, "type": kind, "link": number})
                if name in fed:
                    inputs[-1]["widget"] = {"name": name}
            height = ROW * (1 + max(len(inputs), len(node.outputs)) + len(widgets))
            height += BELOW.get(node.type, 0)
            top = rows.get(node.depth, TITLE)
            rows[node.depth] = top + height + SPACE_BELOW + TITLE
            drawn.append(
                {
                    "id": node.id,
                    "type": node.type,
                    "pos": [(WIDTH + SPACE_BESIDE) * node.depth, top],
                    "size": [WIDTH, height],
                    "flags": {},
                    "order": node.id - 1,
                    "mode": 0,
                    "inputs": inputs,
                    "outputs": [],
                    "properties": {"Node name for S&R": node.type},
                    "widgets_values": [
                        _default_of(node.type, n) if n in fed else node.values[n] for n in widgets
                    ],
                }
            )
        for node, shown in zip(self.nodes, drawn, strict=True):
            shown["outputs"] = [
                {"name": name, "type": kind, "links": outgoing.get(Link(node.id, slot), [])}
                for slot, (name, kind) in enumerate(node.outputs)
            ]
        return {
            "last_node_id": len(self.nodes),
            "last_link_id": len(links),
            "nodes": drawn,
            "links": links,
            "groups": [],
            "config": {},
            "extra": {},
            "version": 0.4,
        }


def _shape(kind: str) -> tuple[Inputs, Outputs]:
    if kind in CORE:
        return CORE[kind]
    spec = OURS[kind]
    return (
        {given.id: given.type for given in spec.inputs},
        [(output.name, output.type) for output in spec.outputs],
    )


def _default_of(kind: str, name: str) -> Any:
    return next(_default(given) for given in OURS[kind].inputs if given.id == name)


def _default(given: Any) -> Any:
    return given.options()[0] if given.type == "COMBO" and given.default is None else given.default


def _picture(graph: Graph, name: str) -> Link:
    return graph.add("LoadImage", image=name, upload="image")["IMAGE"]


def _sample(
    graph: Graph, checkpoint: Node, model: Link, text: str, prefix: str, study: str | None = None
) -> None:
    """Add all from the prompt to the saved picture or the sweep, and the report."""
    positive = graph.add("CLIPTextEncode", clip=checkpoint["CLIP"], text=text)
    negative = graph.add("CLIPTextEncode", clip=checkpoint["CLIP"], text="blurry, lowres")
    latent = graph.add("EmptyLatentImage", width=PICTURE, height=PICTURE, batch_size=1)
    _finish(
        *(graph, model, positive["CONDITIONING"], negative["CONDITIONING"], latent["LATENT"]),
        vae=checkpoint["VAE"],
        prefix=prefix,
        study=study,
        steps=25,
        cfg=6.0,
        sampler="dpmpp_2m",
        scheduler="karras",
    )


def _finish(
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


def _loaders(graph: Graph) -> tuple[Node, Link, Link]:
    """Add what every example loads: checkpoint, adapter and image encoder."""
    checkpoint = graph.add("CheckpointLoaderSimple", ckpt_name="v1-5-pruned-emaonly.safetensors")
    adapter = graph.add("IPAdapterModelLoader", ipadapter_file="ip-adapter_sd15.safetensors")
    encoder = graph.add("CLIPVisionLoader", clip_name="CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors")
    return checkpoint, adapter["IPADAPTER"], encoder["CLIP_VISION"]


def _with_reference(graph: Graph, **options: Any) -> tuple[Node, Node]:
    """Add a checkpoint, and a picture as a prompt of it."""
    checkpoint, adapter, encoder = _loaders(graph)
    return checkpoint, graph.add(
        "IPAdapterAdvanced",
        model=checkpoint["MODEL"],
        ipadapter=adapter,
        image=_picture(graph, "reference.png"),
        clip_vision=encoder,
        **options,
    )


def image_prompt(graph: Graph) -> None:
    """One picture as a prompt, for the first four fifths of sampling."""
    checkpoint, patched = _with_reference(graph, weight=0.8, end_at=0.8)
    _sample(graph, checkpoint, patched["MODEL"], "a portrait, soft light", "image_prompt")


def two_image_prompts(graph: Graph) -> None:
    """Two pictures, one for each half of the result."""
    checkpoint, adapter, encoder = _loaders(graph)
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
            image=_picture(graph, name),
            attn_mask=mask,
            clip_vision=encoder,
            weight=0.9,
        )["MODEL"]
    _sample(graph, checkpoint, model, "two landscapes side by side", "two_image_prompts")


def combined_embeds(graph: Graph) -> None:
    """Weigh and average the features of two pictures, and save them for later as well."""
    checkpoint, adapter, encoder = _loaders(graph)
    features = [
        graph.add(
            "IPAdapterEncoder",
            ipadapter=adapter,
            image=_picture(graph, name),
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
    _sample(graph, checkpoint, patched["MODEL"], "a still life", "combined_embeds")


def guidance_beside_a_prompt(graph: Graph) -> None:
    """Two kinds of self-attention guidance on a model that has an image prompt."""
    checkpoint, patched = _with_reference(graph, weight=0.6)
    blurred = graph.add("AttentionPatchesSAG", model=patched["MODEL"], scale=0.5)
    perturbed = graph.add("AttentionPatchesPAG", model=blurred["MODEL"], scale=2.0)
    _sample(graph, checkpoint, perturbed["MODEL"], "a quiet street at dawn", "guidance")


def fewer_tokens(graph: Graph) -> None:
    """Quicker self-attention for large pictures."""
    checkpoint = graph.add("CheckpointLoaderSimple", ckpt_name="v1-5-pruned-emaonly.safetensors")
    patched = graph.add("NearSightedAttentionSimple", model=checkpoint["MODEL"])
    _sample(graph, checkpoint, patched["MODEL"], "a wide valley", "fewer_tokens")


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
    _finish(
        *(graph, words["MODEL"], words["CONDITIONING"], negative["CONDITIONING"]),
        latent["LATENT"],
        vae=checkpoint["VAE"],
        prefix="sdxl_words_and_negative",
        steps=4,
        sampler="euler_ancestral",
        scheduler="normal",
    )


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
    _finish(
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
        encoded = graph.add("VAEEncode", pixels=_picture(graph, name), vae=vae)
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
    _finish(
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
    picture = _picture(graph, "reference.png")
    prompts = [
        graph.add("TextEncodeQwenImageEditPlus", clip=clip, prompt=text, vae=vae, image1=picture)
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
    latent = graph.add("VAEEncode", pixels=picture, vae=vae)
    _finish(
        *(graph, strong["MODEL"], regional["CONDITIONING"], prompts[1]["CONDITIONING"]),
        latent["LATENT"],
        vae=vae,
        prefix="qwen_edit_regions",
        steps=20,
        cfg=2.5,
    )


def sweep(graph: Graph) -> None:
    """Weights and parts of sampling of an image prompt, every one with every seed."""
    checkpoint, patched = _with_reference(graph)
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
    _sample(graph, checkpoint, patched["MODEL"], "a portrait, soft light", "sweep", study)


EXAMPLES: tuple[Callable[[Graph], None], ...] = (
    image_prompt,
    two_image_prompts,
    combined_embeds,
    guidance_beside_a_prompt,
    fewer_tokens,
    sdxl_words_and_negative,
    flux_words_and_negative,
    klein_reference_strength,
    qwen_edit_regions,
    sweep,
)


def texts() -> dict[Path, str]:
    """Return the text of every file."""
    found = {}
    for example in EXAMPLES:
        graph = Graph()
        example(graph)
        name = f"{example.__name__}.json"
        for path, content in ((name, graph.editor()), (f"api/{name}", graph.api())):
            found[FOLDER / path] = json.dumps(content, indent=1) + "\n"
    return found


def main() -> int:
    """Run the command line; 1 where a file had to change under ``--check``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, name what differs")
    check = parser.parse_args().check
    wanted = texts()
    stale = {path for path in FOLDER.rglob("*.json") if path not in wanted}
    stale |= {p for p, t in wanted.items() if not p.exists() or p.read_text("utf-8") != t}
    for path in sorted(stale):
        print(f"stale: {path.relative_to(FOLDER.parent)}", file=sys.stderr)
        if check:
            continue
        if path not in wanted:
            path.unlink()
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path], encoding="utf-8")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
