# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Apply nodes that tell a picture's style and composition apart, or weigh every layer."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from attnpatch.nodes import inputs as common
from attnpatch.nodes.ipadapter.applying import patch
from attnpatch.nodes.ipadapter.image_prompts import (
    apply_picture,
    make_picture_prompts,
    unpack_values,
)
from attnpatch.nodes.spec import Input, NodeSpec

__all__ = ["NODES"]


def _style_and_composition(
    *,
    image_style: Tensor,
    image_composition: Tensor | None,
    weight_style: Any,
    weight_composition: Any,
    expand_style: bool,
    **values: Any,
) -> tuple[Any]:
    loaded = unpack_values(values)
    if image_composition is None:
        image_composition = image_style
    prompts = []
    for image, weight, weight_type in (
        (image_style, weight_style, "strong style transfer" if expand_style else "style transfer"),
        (image_composition, weight_composition, "composition"),
    ):
        own = {**values, "weight": weight, "weight_type": weight_type}
        prompts += make_picture_prompts(loaded, image, own)[0]
    return (patch(values["model"], prompts),)


def _precise_style(*, style_boost: float, **values: Any) -> tuple[Any]:
    return apply_picture(weight_type="style transfer precise", composition=style_boost, **values)


def _precise_composition(*, weight: Any, composition_boost: float, **values: Any) -> tuple[Any]:
    return apply_picture(
        weight_type="composition precise", weight=composition_boost, composition=weight, **values
    )


_BASE = (common.MODEL, common.IPADAPTER)
_WINDOW = (common.START_AT, common.END_AT)
_OPTIONAL = (
    common.IMAGE_NEGATIVE,
    common.ATTN_MASK,
    common.CLIP_VISION,
    common.REFERENCE_QUIRKS,
)
_STYLE_CATEGORY = "ipadapter/style_composition"


def _boost(name: str, default: float, what: str) -> Input:
    return common.weight(name, minimum=-5, default=default, what=what)


def _style_inputs(batch: bool) -> tuple[Input, ...]:
    return (
        *_BASE,
        common.image("image_style", "Gives colours, light and brushwork."),
        common.image("image_composition", "Gives the arrangement of things."),
        common.weight("weight_style", what="How strong the style is."),
        common.weight("weight_composition", what="How strong the composition is."),
        Input(
            id="expand_style",
            type="BOOLEAN",
            default=False,
            tooltip="The style acts in every layer but the composition's.",
        ),
        *(() if batch else (common.combine("average"),)),
        *_WINDOW,
        common.EMBEDS_SCALING,
        *_OPTIONAL,
    )


def _precise_inputs(boost: Input) -> tuple[Input, ...]:
    return (
        *_BASE,
        common.image(),
        common.weight(),
        boost,
        common.combine(),
        *_WINDOW,
        common.EMBEDS_SCALING,
        *_OPTIONAL,
    )


def _enhancer_inputs(batch: bool) -> tuple[Input, ...]:
    return (
        *_BASE,
        common.image(what=common.FOR_EACH) if batch else common.image(),
        common.weight(),
        common.WEIGHT_TYPE,
        *(() if batch else (common.combine(),)),
        *_WINDOW,
        common.EMBEDS_SCALING,
        Input(
            id="enhance_tiles",
            type="INT",
            default=2,
            minimum=1,
            maximum=16,
            tooltip="Tiles a side that the encoder looks at beside the whole; 1: none.",
        ),
        Input(
            id="enhance_ratio",
            type="FLOAT",
            default=0.5 if batch else 1.0,
            minimum=0.0,
            maximum=1.0,
            step=0.05,
            tooltip="How much of the whole picture's features counts beside the tiles'.",
        ),
        *((common.ENCODE_BATCH_SIZE,) if batch else ()),
        *_OPTIONAL,
    )


_STYLE_BOOST = _boost(
    "style_boost", 1.0, "How far the result is led away from the picture's composition."
)
_COMPOSITION_BOOST = _boost(
    "composition_boost", 0.0, "How far the result is led away from the picture's style."
)


def _pair(
    id: str, title: str, batch_title: str, *, category: str, description: str, **node: Any
) -> tuple[NodeSpec, NodeSpec]:
    """Make a node and its twin for batches, which takes `batch_inputs` where they differ."""
    run = node["run"]
    inputs, batch_inputs = node["inputs"], node.get("batch_inputs", node["inputs"])
    outputs = (common.MODEL_OUT,)
    single = NodeSpec(
        id=id,
        title=title,
        category=category,
        description=description,
        inputs=inputs,
        outputs=outputs,
        run=run,
    )
    twin = NodeSpec(
        id=f"{id}Batch",
        title=batch_title,
        category=category,
        description=f"{description} One reference for each picture of the batch.",
        inputs=batch_inputs,
        outputs=outputs,
        run=partial(run, unfold=True),
    )
    return single, twin


NODES = (
    *_pair(
        "IPAdapterStyleComposition",
        "IPAdapter Style & Composition SDXL",
        "IPAdapter Style & Composition Batch SDXL",
        category=_STYLE_CATEGORY,
        description="Takes the style of one picture and the composition of another.",
        inputs=_style_inputs(batch=False),
        batch_inputs=_style_inputs(batch=True),
        run=_style_and_composition,
    ),
    *_pair(
        "IPAdapterPreciseStyleTransfer",
        "IPAdapter Precise Style Transfer",
        "IPAdapter Precise Style Transfer Batch",
        category="ipadapter",
        description="Takes a picture's style and leads away from its composition.",
        inputs=_precise_inputs(_STYLE_BOOST),
        run=_precise_style,
    ),
    *_pair(
        "IPAdapterPreciseComposition",
        "IPAdapter Precise Composition",
        "IPAdapter Precise Composition Batch",
        category="ipadapter",
        description="Takes a picture's composition and leads away from its style.",
        inputs=_precise_inputs(_COMPOSITION_BOOST),
        run=_precise_composition,
    ),
    *_pair(
        "IPAdapterClipVisionEnhancer",
        "IPAdapter ClipVision Enhancer",
        "IPAdapter ClipVision Enhancer Batch",
        category="ipadapter/dev",
        description="Lets the encoder look at tiles of the picture as well, for finer detail.",
        inputs=_enhancer_inputs(batch=False),
        batch_inputs=_enhancer_inputs(batch=True),
        run=apply_picture,
    ),
    NodeSpec(
        id="IPAdapterMS",
        title="IPAdapter Mad Scientist",
        category="ipadapter/dev",
        description="Weighs every layer by itself.",
        inputs=(
            *_BASE,
            common.image(),
            common.weight(),
            common.FACE_STRUCTURE,
            common.WEIGHT_TYPE,
            common.combine(),
            *_WINDOW,
            common.EMBEDS_SCALING,
            Input(
                id="layer_weights",
                type="STRING",
                default="",
                multiline=True,
                tooltip="A weight for each spatial transformer, as '3:1.0, 6:0.5': 0 to 10 in SDXL "
                "(3 composition, 6 style), 0 to 15 in SD1.5. Layers not named get nothing; empty: "
                "the weight type decides.",
            ),
            common.IMAGE_NEGATIVE,
            common.ATTN_MASK,
            common.CLIP_VISION,
            common.INSIGHTFACE,
            common.REFERENCE_QUIRKS,
        ),
        outputs=(common.MODEL_OUT,),
        run=apply_picture,
    ),
)
