# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes for several regions at once: parameters that are collected and then applied together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from attnpatch.nodes import comfy
from attnpatch.nodes import inputs as common
from attnpatch.nodes.ipadapter.applying import patch
from attnpatch.nodes.ipadapter.image_prompts import make_picture_prompts, unpack_values
from attnpatch.nodes.spec import Input, NodeSpec, Output

__all__ = ["NODES"]

Params = Mapping[str, list[Any]]
_FIELDS = ("image", "attn_mask", "weight", "weight_type", "start_at", "end_at")


def _describe(
    *,
    image: Tensor,
    image_weight: float,
    prompt_weight: float,
    weight_type: str,
    start_at: float,
    end_at: float,
    mask: Tensor | None,
    positive: Any,
    negative: Any,
) -> tuple[Params, Any, Any]:
    values = (image, mask, image_weight, weight_type, start_at, end_at)
    params = {name: [value] for name, value in zip(_FIELDS, values, strict=True)}
    return params, *(_masked(cond, mask, prompt_weight) for cond in (positive, negative))


def _masked(conditioning: Any, mask: Tensor | None, strength: float) -> Any:
    """Limit a conditioning to a mask, in a copy."""
    if conditioning is None or mask is None:
        return conditioning
    limit = {"mask": mask, "set_area_to_bounds": False, "mask_strength": strength}
    return [[tokens, {**options, **limit}] for tokens, options in conditioning]


def _join(**params: Params | None) -> tuple[Params]:
    sets = [value for value in params.values() if value is not None]
    return ({name: [item for each in sets for item in each[name]] for name in _FIELDS},)


def _apply(*, ipadapter_params: Params, **values: Any) -> tuple[Any]:
    loaded = unpack_values(values)
    prompts = []
    sets = list(zip(*(ipadapter_params[name] for name in _FIELDS), strict=True))
    for items in comfy.steps(sets, len(sets)):
        own = dict(zip(_FIELDS, items, strict=True))
        image = own.pop("image")
        if image is not None:
            prompts += make_picture_prompts(loaded, image, {**values, **own})[0]
    return (patch(values["model"], prompts),)


def _params_inputs(count: int, required: int) -> Sequence[Input]:
    return tuple(
        Input(
            id=f"params_{number}",
            type="IPADAPTER_PARAMS",
            tooltip="What one or several Regional Conditioning nodes gave.",
            optional=number > required,
        )
        for number in range(1, count + 1)
    )


def _conditioning(name: str) -> Input:
    return Input(
        id=name,
        type="CONDITIONING",
        tooltip=f"The {name} prompt of this region; it is limited to the mask.",
        optional=True,
    )


_CATEGORY = "ipadapter/params"
_PARAMS_OUT = Output("IPADAPTER_PARAMS", "IPADAPTER_PARAMS", "For IPAdapter from Params.")

NODES = (
    NodeSpec(
        id="IPAdapterRegionalConditioning",
        title="IPAdapter Regional Conditioning",
        category=_CATEGORY,
        description="Describes one region: its picture, its prompts and its mask.",
        inputs=(
            common.image(),
            common.weight("image_weight", maximum=3.0, minimum=-1.0),
            common.weight(
                "prompt_weight",
                maximum=10.0,
                minimum=0.0,
                what="How strong the region's prompts are.",
            ),
            common.WEIGHT_TYPE,
            common.START_AT,
            common.END_AT,
            Input(id="mask", type="MASK", tooltip="Where the region is.", optional=True),
            _conditioning("positive"),
            _conditioning("negative"),
        ),
        outputs=(
            _PARAMS_OUT,
            Output("CONDITIONING", "POSITIVE", "The positive prompt, limited to the mask."),
            Output("CONDITIONING", "NEGATIVE", "The negative prompt, limited to the mask."),
        ),
        run=_describe,
    ),
    NodeSpec(
        id="IPAdapterCombineParams",
        title="IPAdapter Combine Params",
        category=_CATEGORY,
        description="Collects the parameters of several regions.",
        inputs=tuple(_params_inputs(count=5, required=2)),
        outputs=(_PARAMS_OUT,),
        run=_join,
    ),
    NodeSpec(
        id="IPAdapterFromParams",
        title="IPAdapter from Params",
        category=_CATEGORY,
        description="Adds the pictures of all regions to the prompt.",
        inputs=(
            common.MODEL,
            common.IPADAPTER,
            Input(
                id="ipadapter_params",
                type="IPADAPTER_PARAMS",
                tooltip="What Regional Conditioning or Combine Params gave.",
            ),
            common.combine(),
            common.EMBEDS_SCALING,
            common.IMAGE_NEGATIVE,
            common.CLIP_VISION,
            common.REFERENCE_QUIRKS,
        ),
        outputs=(common.MODEL_OUT,),
        run=_apply,
    ),
)
