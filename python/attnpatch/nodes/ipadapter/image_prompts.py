# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes that put image prompts into a model."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from attnpatch.adapters import ImageAdapter
from attnpatch.nodes import inputs as common
from attnpatch.nodes.ipadapter.applying import Settings, make_prompts, patch
from attnpatch.nodes.ipadapter.encoding import encode_reference
from attnpatch.nodes.ipadapter.faces import Faces, find_faces
from attnpatch.nodes.ipadapter.sockets import Loaded, unpack
from attnpatch.nodes.spec import Input, NodeSpec
from attnpatch.patches import ImagePrompt

__all__ = ["NODES", "apply_pictures", "make_picture_prompts", "unpack_values"]

# Which of a node's inputs is which setting.
_SETTINGS = {
    "weight": "weight",
    "composition": "composition",
    "weight_type": "weight_type",
    "layer_weights": "layers",
    "combine_embeds": "combine",
    "start_at": "start",
    "end_at": "end",
    "attn_mask": "mask",
    "embeds_scaling": "scaling",
    "unfold": "unfold",
    "weight_faceidv2": "face_structure",
    "weight_kolors": "through_model",
}
_SDXL_CONTEXT = 2048  # values of a token; its cut-down relatives have the same
_SIMPLE_TYPES = {
    "standard": "linear",
    "prompt is more important": "ease out",
    "style transfer": "style transfer",
}


def settings_of(values: dict[str, Any]) -> Settings:
    """Read the settings among a node's values."""
    settings = {_SETTINGS[name]: value for name, value in values.items() if name in _SETTINGS}
    whole = settings.get("weight_type") == "style and composition"
    if values.get("reference_quirks"):
        settings["compat"] = "comfyui_ipadapter_plus"
        if whole and settings.get("composition") is None:
            settings["composition"] = 1.0
    return Settings(**settings)


def unpack_values(values: dict[str, Any]) -> Loaded:
    """Read the adapter, the encoder and the face analyser among a node's values."""
    return unpack(values["ipadapter"], values.get("clip_vision"), values.get("insightface"))


def make_picture_prompts(
    loaded: Loaded, image: Tensor, values: dict[str, Any]
) -> tuple[list[ImagePrompt], Tensor]:
    """Make the image prompts of reference pictures.

    Parameters
    ----------
    loaded
        The adapter and its encoder.
    image
        (pictures, H, W, 3), 0 to 1.
    values
        The node's inputs by name, and beside them "unfold" and "composition".

    Returns
    -------
    list of ImagePrompt
        What to patch the model with.
    Tensor
        What the encoder saw: the pictures, or the faces cut out of them.
    """
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
    return make_prompts(values["model"], loaded.adapter, reference, settings_of(values)), shown


def apply_pictures(*, image: Tensor, **values: Any) -> tuple[Any, Tensor]:
    """Patch a model with one reference; gives the model, and what the encoder saw."""
    prompts, shown = make_picture_prompts(unpack_values(values), image, values)
    return patch(values["model"], prompts), shown


def apply_picture(**values: Any) -> tuple[Any]:
    """Patch a model with one reference."""
    return apply_pictures(**values)[:1]


def _faces(loaded: Loaded, image: Tensor) -> Faces | None:
    takes = loaded.adapter.takes[0]
    if takes.form != "face":
        return None
    size = _crop_size(loaded.adapter)
    return find_faces(loaded.insightface, image, raw=takes.face == "raw", size=size)


def _crop_size(adapter: ImageAdapter) -> int:
    """Give the side of the faces that are cut out, in pixels, as each adapter was trained."""
    if adapter.family == "kolors":
        return 336
    return 256 if adapter.context_dim == _SDXL_CONTEXT else 224


def _apply_simple(*, weight_type: str, **values: Any) -> tuple[Any]:
    return apply_picture(weight_type=_SIMPLE_TYPES[weight_type], **values)


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
                type="COMBO",
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
        run=apply_picture,
    ),
    NodeSpec(
        id="IPAdapterBatch",
        title="IPAdapter Batch (Adv.)",
        category="ipadapter",
        description="Gives each picture of the batch, or frame, a reference picture of its own.",
        inputs=(
            *_BASE,
            common.image(what=common.FOR_EACH),
            common.weight(),
            common.WEIGHT_TYPE,
            *_WINDOW,
            common.EMBEDS_SCALING,
            common.ENCODE_BATCH_SIZE,
            *_OPTIONAL,
        ),
        outputs=(common.MODEL_OUT,),
        run=partial(apply_picture, unfold=True),
    ),
)
