# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The node that makes a model look more, or less, at a reference picture in its sequence."""

from __future__ import annotations

from typing import Any

from torch import Tensor

import attnpatch
from attnpatch.nodes import inputs as common
from attnpatch.nodes.spec import Input, NodeSpec, Output

__all__ = ["NODES"]

_ALL = -1


def _apply(
    *,
    model: Any,
    strength: float,
    reference: int,
    start_at: float,
    end_at: float,
    mask: Tensor | None = None,
    reference_mask: Tensor | None = None,
) -> tuple[Any]:
    patch = attnpatch.reference_strength(
        strength,
        None if reference == _ALL else reference,
        part=reference_mask,
        mask=mask,
        start=start_at,
        end=end_at,
    )
    return (attnpatch.patch_model(model, patch),)


NODES = (
    NodeSpec(
        id="AttentionPatchesReferenceStrength",
        title="Reference Strength (attention patches)",
        category="attnpatch",
        description="Makes a model look more, or less, at a reference picture that it is given in "
        "its sequence: Flux Kontext, Flux.2 and Klein, Krea 2, Qwen-Image-Edit, Z-Image Omni. "
        "Attention of the picture that is made to the reference is multiplied; the host's own "
        "attention stays in use.",
        inputs=(
            common.MODEL,
            Input(
                id="strength",
                type="FLOAT",
                default=1.0,
                minimum=0.0,
                maximum=1000.0,
                step=0.01,
                tooltip="At 0 the reference is hidden, at 1 nothing changes, above 1 it counts "
                "more; 0.5 to 2 is a useful range.",
            ),
            Input(
                id="reference",
                type="INT",
                default=0,
                minimum=_ALL,
                maximum=63,
                tooltip="Which of several references, in the order in which they are given, from "
                "0; -1: all.",
            ),
            common.START_AT,
            common.END_AT,
            Input(
                id="mask",
                type="MASK",
                tooltip="Where in the result it acts. Several masks: one for each picture of the "
                "batch.",
                optional=True,
            ),
            Input(
                id="reference_mask",
                type="MASK",
                tooltip="Which part of the reference is meant.",
                optional=True,
            ),
        ),
        outputs=(Output("MODEL", "MODEL", "The model that looks so at the reference."),),
        run=_apply,
    ),
)
