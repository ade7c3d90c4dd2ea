# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The node for normalized attention guidance: names and ranges are those of ComfyUI's own node."""

from __future__ import annotations

from typing import Any

import attnpatch
from attnpatch.hosts.comfyui.prompts import text_of
from attnpatch.hosts.comfyui.text_tokens import Conditioning
from attnpatch.nodes import inputs as common
from attnpatch.nodes.spec import Input, NodeSpec, Output
from attnpatch.patches import NormalizedAttentionGuidance

__all__ = ["NODES"]


def _number(
    name: str, default: float, high: float, step: float, what: str, low: float = 0
) -> Input:
    return Input(
        id=name,
        type="FLOAT",
        default=default,
        minimum=low,
        maximum=high,
        step=step,
        tooltip=what,
    )


def _apply(
    *,
    model: Any,
    negative: Conditioning,
    nag_scale: float,
    nag_alpha: float,
    nag_tau: float,
    start_at: float,
    end_at: float,
    blocks: str,
) -> tuple[Any]:
    """Return a clone of the model with the guidance."""
    text, mask = text_of(model, negative, "negative")
    patch = NormalizedAttentionGuidance(
        text,
        scale=nag_scale,
        tau=nag_tau,
        alpha=nag_alpha,
        start=start_at,
        end=end_at,
        blocks=blocks if blocks.strip() else None,
        attention_mask=mask,
    )
    return (attnpatch.patch_model(model, [patch]),)


NODES = (
    NodeSpec(
        id="AttentionPatchesNAG",
        title="Normalized Attention Guidance (attention patches)",
        category="model_patches/unet",
        description="Leads away from a negative prompt within the model's attention, at any cfg, "
        "also 1: for few-step models, or beside a negative prompt of the sampler. For UNets and "
        "transformers (Flux, Flux.2, Chroma, Krea 2, Qwen-Image, Z-Image, SD3.5, Anima), with a "
        "text of its own, of any length.",
        inputs=(
            common.MODEL,
            Input(
                id="negative",
                type="CONDITIONING",
                tooltip="What the picture must not show. It need not be the sampler's negative.",
            ),
            _number("nag_scale", 5.0, 50.0, 0.1, "How far away; 1 is off."),
            _number("nag_alpha", 0.25, 1.0, 0.01, "How much of the result is guided; 0 is off."),
            _number("nag_tau", 2.5, 10.0, 0.01, "The largest growth of a token's norm.", 1.0),
            _number("start_at", 0.0, 1.0, 0.001, "The part of sampling at which it begins."),
            _number("end_at", 1.0, 1.0, 0.001, "The part of sampling at which it stops."),
            Input(
                id="blocks",
                type="STRING",
                default="",
                tooltip="Where it acts, with commas between: d, m or u for the way down, the "
                "middle and the way up, a block's number or range, perhaps a dot and transformers: "
                "m0,u0.4,d2.2-9. Nothing: everywhere; so in transformers.",
            ),
        ),
        outputs=(Output("MODEL", "MODEL", "The model with this guidance."),),
        run=_apply,
    ),
)
