# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes that put image prompts into a model."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from attnpatch.adapters import ImageAdapter
from attnpatch.nodes import inputs as common
from attnpatch.nodes.applying import Settings, make_prompts, patch
from attnpatch.nodes.encoding import encode_reference
from attnpatch.nodes.faces import Faces, find_faces
from attnpatch.nodes.sockets import Loaded, unpack
from attnpatch.nodes.spec import Input, NodeSpec
from attnpatch.patches import ImagePrompt

__all__ = ["NODES", "apply_pictures", "prompts_of", "settings_from"]

# Which of a node's inputs is which setting.
_SETTINGS = {
    "weight": "weight",
    "weight_type": "weight_type",
    "layer_weights": "layers",
    "combine_embeds": "combine",
    "start_at": "start",
    "end_at": "end",
    "attn_mask": "mask",
    "embeds_scaling": "scaling",
    "weight_faceidv2": "face_structure",
    "reference_quirks": "reference_quirks",
}
_SIMPLE_TYPES = {
    "standard": "linear",
    "prompt is more important": "ease out",
    "style transfer": "style transfer",
}


def settings_from(values: dict[str, Any], **more: Any) -> Settings:
    """Read the settings among a node's inputs."""
    given = {_SETTINGS[name]: value for name, value in values.items() if name in _SETTINGS}
    return Settings(**{**given, **more})


def prompts_of(
    model: Any, loaded: Loaded, image: Tensor, settings: Settings, values: dict[str, Any]
) -> tuple[list[ImagePrompt], Tensor]:
    """Make the image prompts of reference pictures; with the faces cut out, where they count."""
    faces = _faces(loaded, image)
    shown = image if faces is None else faces.crops
    reference = encode_reference(
        loaded.adapter,
        loaded.clip_vision,
        shown,
        values.get("image_negative"),
        faces=None if faces is None else faces.embeddings,
        batch_size=values.get("encode_batch_size", 0),
        tiles=values.get("enhance_tiles", 1),
        ratio=values.get("enhance_ratio", 1.0),
    )
    return make_prompts(model, loaded.adapter, reference, settings), shown


def apply_pictures(
    *, model: Any, ipadapter: Any, image: Tensor, unfold: bool = False, **values: Any
) -> tuple[Any, Tensor]:
    """Patch a model with one reference; gives the model, and the faces or pictures used."""
    loaded = unpack(ipadapter, values.get("clip_vision"), values.get("insightface"))
    composition = values.pop("composition", None)
    quirk = values.get("reference_quirks") and values.get("weight_type") == "style and composition"
    if quirk and composition is None:
        composition = 1.0
    settings = settings_from(values, unfold=unfold, composition=composition)
    prompts, shown = prompts_of(model, loaded, image, settings, values)
    return patch(model, prompts), shown


def _faces(loaded: Loaded, image: Tensor) -> Faces | None:
    adapter: ImageAdapter = loaded.adapter
    takes = adapter.takes[0]
    if takes.form != "face":
        return None
    size = 256 if adapter.family == "sdxl" else 224
    return find_faces(loaded.insightface, image, raw=takes.face == "raw", size=size)


def _apply(**values: Any) -> tuple[Any]:
    return apply_pictures(**values)[:1]


def _apply_simple(*, weight_type: str, **values: Any) -> tuple[Any]:
    return _apply(weight_type=_SIMPLE_TYPES[weight_type], **values)


_BASE = (common.MODEL, common.IPADAPTER)
_WINDOW = (common.START_AT, common.END_AT)
_OPTIONAL = (
    common.IMAGE_NEGATIVE,
    common.ATTN_MASK,
    common.CLIP_VISION,
    common.REFERENCE_QUIRKS,
)

NODES = (
    NodeSpec(
        id="IPAdapter",
        title="IPAdapter",
        category="ipadapter",
        description="Adds a picture to the prompt, with few settings.",
        inputs=(
            *_BASE,
            common.image(),
            common.weight(maximum=3),
            *_WINDOW,
            Input(
                id="weight_type",
                kind="COMBO",
                choices=tuple(_SIMPLE_TYPES),
                tooltip="How the picture counts: throughout, less than the text, or for its style "
                "alone.",
            ),
            common.ATTN_MASK,
            common.REFERENCE_QUIRKS,
        ),
        outputs=(common.MODEL_OUT,),
        run=_apply_simple,
    ),
    NodeSpec(
        id="IPAdapterAdvanced",
        title="IPAdapter Advanced",
        category="ipadapter",
        description="Adds pictures to the prompt: how strong, when, where, and in which layers.",
        inputs=(
            *_BASE,
            common.image(),
            common.weight(),
            common.WEIGHT_TYPE,
            common.combine(),
            *_WINDOW,
            common.EMBEDS_SCALING,
            *_OPTIONAL,
        ),
        outputs=(common.MODEL_OUT,),
        run=_apply,
    ),
    NodeSpec(
        id="IPAdapterBatch",
        title="IPAdapter Batch (Adv.)",
        category="ipadapter",
        description="Gives each picture of the batch, or frame, a reference picture of its own.",
        inputs=(
            *_BASE,
            common.image(what="One picture for each of the batch; the last serves the rest."),
            common.weight(),
            common.WEIGHT_TYPE,
            *_WINDOW,
            common.EMBEDS_SCALING,
            common.ENCODE_BATCH_SIZE,
            *_OPTIONAL,
        ),
        outputs=(common.MODEL_OUT,),
        run=partial(_apply, unfold=True),
    ),
)
