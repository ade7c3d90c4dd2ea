# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Inputs and outputs that several nodes share. Defaults and names are those of the Python API."""

from __future__ import annotations

import inspect

from attnpatch.adapters.combine import COMBINE_MODES
from attnpatch.nodes.spec import Input, Output
from attnpatch.patches import WEIGHT_TYPES, ImagePrompt
from attnpatch.patches.image_prompt.keys_values import SCALINGS

_DEFAULTS = {
    name: parameter.default for name, parameter in inspect.signature(ImagePrompt).parameters.items()
}
_NOT_FOR_PICTURES = ("batch", "max", "min")  # how features, not pictures, are combined
_NOT_IN_MENUS = ("around composition", "strong style and composition")

MODEL = Input(id="model", type="MODEL", tooltip="The model to patch; it stays as it is.")
IPADAPTER = Input(
    id="ipadapter",
    type="IPADAPTER",
    tooltip="An image adapter from one of the loaders, ours or another pack's.",
)
CLIP_VISION = Input(
    id="clip_vision",
    type="CLIP_VISION",
    tooltip="The image encoder that the adapter was trained with. A unified loader brings its own.",
    optional=True,
)
INSIGHTFACE = Input(
    id="insightface",
    type="INSIGHTFACE",
    tooltip="Finds faces and embeds them. A unified FaceID loader brings its own.",
    optional=True,
)
IMAGE_NEGATIVE = Input(
    id="image_negative",
    type="IMAGE",
    tooltip="What the picture must not look like. Without it: a black picture or zeros, as the "
    "adapter was trained.",
    optional=True,
)
ATTN_MASK = Input(
    id="attn_mask",
    type="MASK",
    tooltip="Where in the result the reference counts. Several masks: one for each picture of the "
    "batch.",
    optional=True,
)
WEIGHT_TYPE = Input(
    id="weight_type",
    type="COMBO",
    choices=tuple(name for name in WEIGHT_TYPES if name not in _NOT_IN_MENUS),
    tooltip="How the weight spreads over the model's layers: evenly, in ramps, or only where style "
    "or composition is made.",
)
START_AT = Input(
    id="start_at",
    type="FLOAT",
    default=_DEFAULTS["start"],
    minimum=0.0,
    maximum=1.0,
    step=0.001,
    tooltip="The part of sampling at which the reference begins to count.",
)
END_AT = Input(
    id="end_at",
    type="FLOAT",
    default=_DEFAULTS["end"],
    minimum=0.0,
    maximum=1.0,
    step=0.001,
    tooltip="The part of sampling at which the reference stops counting.",
)
EMBEDS_SCALING = Input(
    id="embeds_scaling",
    type="COMBO",
    choices=tuple(SCALINGS),
    tooltip="What the weight multiplies: the output (V only), keys and values (K+V), or those "
    "times the layer's channels / 1280 (C penalty).",
)
ENCODE_BATCH_SIZE = Input(
    id="encode_batch_size",
    type="INT",
    default=0,
    minimum=0,
    maximum=4096,
    tooltip="Pictures encoded at a time, to save memory; 0: all at once.",
)
REFERENCE_QUIRKS = Input(
    id="reference_quirks",
    type="BOOLEAN",
    default=_DEFAULTS["compat"] is not None,
    tooltip="Do as ComfyUI_IPAdapter_plus where it errs: leave the middle block alone, weigh the "
    "composition by 1 in 'style and composition', take norms over pictures in 'norm average'.",
    optional=True,
)

FACE_STRUCTURE = Input(
    id="weight_faceidv2",
    type="FLOAT",
    default=1.0,
    minimum=-1,
    maximum=5,
    step=0.05,
    tooltip="FaceID Plus v2: how much the face's look counts beside its identity.",
)
FOR_EACH = "One reference picture for each picture of the batch; the last serves the rest."

MODEL_OUT = Output("MODEL", "MODEL", "The model with the image prompt.")


def image(name: str = "image", what: str = "The reference picture, or several.") -> Input:
    """Make a picture's input."""
    return Input(id=name, type="IMAGE", tooltip=what)


def weight(
    name: str = "weight",
    *,
    maximum: float = 5,
    minimum: float = -1,
    default: float = _DEFAULTS["weight"],
    step: float = 0.05,
    what: str = "How strong the reference is; 0: not at all, below 0: its opposite.",
) -> Input:
    """Make a weight's input."""
    return Input(
        id=name,
        type="FLOAT",
        default=default,
        minimum=minimum,
        maximum=maximum,
        step=step,
        tooltip=what,
    )


def combine(default: str | None = None) -> Input:
    """Make the input for what several pictures become."""
    return Input(
        id="combine_embeds",
        type="COMBO",
        choices=tuple(mode for mode in COMBINE_MODES if mode not in _NOT_FOR_PICTURES),
        default=default,
        tooltip="What several reference pictures become: all their tokens, or the features' sum, "
        "the first less the others' mean, or a mean.",
    )
