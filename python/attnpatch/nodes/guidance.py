# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes for guidance by a degraded prediction: SAG, PAG and SEG."""

from __future__ import annotations

import math
from dataclasses import fields
from functools import partial
from typing import Any

import attnpatch
from attnpatch.nodes import inputs as common
from attnpatch.nodes.spec import Input, NodeSpec, Output
from attnpatch.patches import (
    Guidance,
    PerturbedAttentionGuidance,
    SelfAttentionGuidance,
    SmoothedEnergyGuidance,
)
from attnpatch.patches.guidance.scale import RESCALE_MODES

__all__ = ["NODES"]

_CATEGORY = "model_patches/unet"
_RENAMED = {"start_at": "start", "end_at": "end"}


def _float(
    patch: type[Guidance], name: str, low: float, high: float, step: float, what: str
) -> Input:
    """Make a number's input; its default is the patch's own."""
    default = next(f.default for f in fields(patch) if f.name == name)
    if default == math.inf:
        default = -1.0  # as node packs write it
    return Input(
        id=name,
        type="FLOAT",
        default=default,
        minimum=low,
        maximum=high,
        step=step,
        tooltip=what,
    )


def _advanced(patch: type[Guidance], where: str) -> tuple[Input, ...]:
    """Make the inputs that all advanced nodes have."""
    blocks = next(f.default for f in fields(patch) if f.name == "blocks")
    return (
        Input(
            id="blocks",
            type="STRING",
            default=blocks,
            tooltip=f"{where}, with commas between: d, m or u for the way down, the middle and the "
            "way up, a block's number or range, perhaps a dot and transformers: m0,u0.4,d2.2-9.",
        ),
        common.START_AT,
        common.END_AT,
        _float(patch, "rescale", 0.0, 1.0, 0.01, "Against too much contrast: 0 none, 1 all."),
        Input(
            id="rescale_mode",
            type="COMBO",
            choices=RESCALE_MODES,
            tooltip="Measure the contrast of the whole result (full), or of the cond prediction "
            "and what this guidance adds (partial); or let the more salient of the two guidances "
            "rule each pixel, without rescaling (snf).",
        ),
    )


def _apply(patch: type[Guidance], *, model: Any, **values: Any) -> tuple[Any]:
    """Return a clone of the model with the guidance."""
    options = {_RENAMED.get(name, name): value for name, value in values.items()}
    return (attnpatch.patch_model(model, [patch(**options)]),)


def _node(
    id: str,
    title: str,
    description: str,
    patch: type[Guidance],
    inputs: tuple[Input, ...],
    category: str = _CATEGORY,
) -> NodeSpec:
    return NodeSpec(
        id=id,
        title=title,
        category=category,
        description=description,
        inputs=(common.MODEL, *inputs),
        outputs=(Output("MODEL", "MODEL", "The model with this guidance."),),
        run=partial(_apply, patch),
    )


_SAG = (
    _float(
        SelfAttentionGuidance, "scale", -2.0, 5.0, 0.01, "How strong; below 0: towards the blurred."
    ),
    _float(
        SelfAttentionGuidance, "blur_sigma", 0.0, 10.0, 0.1, "How far the blur reaches; 0: none."
    ),
)
_SCALE = "How strong; very high values burn colours."

NODES = (
    _node(
        "SelfAttentionGuidance",
        "Self-Attention Guidance",
        "Leads away from a picture that is blurred where the model looks. ComfyUI keeps its own "
        "node of this id; ours is also there as Self-Attention Guidance (attention patches).",
        SelfAttentionGuidance,
        _SAG,
        "_for_testing",
    ),
    _node(
        "AttentionPatchesSAG",
        "Self-Attention Guidance (attention patches)",
        "Leads away from a picture that is blurred where the model looks: any size, batches and "
        "areas, without the attention map.",
        SelfAttentionGuidance,
        (
            *_SAG,
            _float(
                SelfAttentionGuidance,
                "threshold",
                0.0,
                10.0,
                0.01,
                "What gets more attention than this is blurred; 1: than the mean.",
            ),
            *_advanced(SelfAttentionGuidance, "Where attention is recorded"),
        ),
    ),
    _node(
        "AttentionPatchesPAG",
        "Perturbed-Attention Guidance (attention patches)",
        "Leads away from what comes out where each token sees itself alone.",
        PerturbedAttentionGuidance,
        (
            _float(PerturbedAttentionGuidance, "scale", 0.0, 100.0, 0.01, _SCALE),
            _float(
                PerturbedAttentionGuidance,
                "adaptive_scale",
                0.0,
                1.0,
                0.001,
                "Weakens it as sampling goes on, which saves time; 0: not at all, 1: to nothing.",
            ),
            *_advanced(PerturbedAttentionGuidance, "Where it acts"),
        ),
    ),
    _node(
        "AttentionPatchesSEG",
        "Smoothed-Energy Guidance (attention patches)",
        "Leads away from what comes out where queries are blurred over the picture.",
        SmoothedEnergyGuidance,
        (
            _float(SmoothedEnergyGuidance, "scale", 0.0, 100.0, 0.01, _SCALE),
            _float(
                SmoothedEnergyGuidance,
                "blur_sigma",
                -1.0,
                9999.0,
                0.01,
                "How far the blur reaches, in tokens; below 0: over all, the mean.",
            ),
            *_advanced(SmoothedEnergyGuidance, "Where it acts"),
        ),
    ),
)
