# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Apply nodes for adapters that take faces."""

from __future__ import annotations

from functools import partial

from attnpatch.nodes import inputs as common
from attnpatch.nodes.ipadapter.image_prompts import apply_pictures
from attnpatch.nodes.spec import NodeSpec, Output

__all__ = ["NODES"]

_FIRST = (
    common.MODEL,
    common.IPADAPTER,
    common.image(what="A picture that shows a face, or several pictures."),
    common.weight(maximum=3),
    common.FACE_STRUCTURE,
)
_REST = (
    common.WEIGHT_TYPE,
    common.combine(),
    common.START_AT,
    common.END_AT,
    common.EMBEDS_SCALING,
    common.IMAGE_NEGATIVE,
    common.ATTN_MASK,
    common.CLIP_VISION,
    common.INSIGHTFACE,
    common.REFERENCE_QUIRKS,
)
_INPUTS = (*_FIRST, *_REST)
_WEIGHT_KOLORS = common.weight(
    "weight_kolors",
    what="The FaceID adapter for Kolors: how strong the face's tokens come out of the projection "
    "that Kolors has for its text. Other adapters have no use for it.",
)
_OUTPUTS = (
    common.MODEL_OUT,
    Output("IMAGE", "face_image", "The faces as they were cut out; else the pictures."),
)
_CATEGORY = "ipadapter/faceid"

NODES = (
    NodeSpec(
        id="IPAdapterFaceID",
        title="IPAdapter FaceID",
        category=_CATEGORY,
        description="Gives the result the face of a picture.",
        inputs=_INPUTS,
        outputs=_OUTPUTS,
        run=apply_pictures,
    ),
    NodeSpec(
        id="IPAAdapterFaceIDBatch",
        title="IPAdapter FaceID Batch",
        category=_CATEGORY,
        description="Gives each picture of the batch the face of a picture of its own.",
        inputs=_INPUTS,
        outputs=_OUTPUTS,
        run=partial(apply_pictures, unfold=True),
    ),
    NodeSpec(
        id="IPAdapterFaceIDKolors",
        title="IPAdapter FaceID Kolors",
        category=_CATEGORY,
        description="Gives the result of a Kolors model the face of a picture.",
        inputs=(*_FIRST, _WEIGHT_KOLORS, *_REST),
        outputs=_OUTPUTS,
        run=apply_pictures,
    ),
)
