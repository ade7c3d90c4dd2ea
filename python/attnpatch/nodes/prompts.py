# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes for prompts: words with weights, and texts of regions."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from attnpatch.hosts.comfyui.prompts import add_region, weigh_words
from attnpatch.hosts.comfyui.text_tokens import Conditioning
from attnpatch.nodes import inputs as common
from attnpatch.nodes.spec import Input, NodeSpec, Output

__all__ = ["NODES"]


def _weigh(
    *, model: Any, clip: Any, text: str, start_at: float, end_at: float
) -> tuple[Any, Conditioning]:
    """Return a clone of the model with the words' weights, and the prompt without them."""
    return weigh_words(model, clip, text, start=start_at, end=end_at)


def _add_region(
    *,
    model: Any,
    conditioning: Conditioning,
    region: Conditioning,
    mask: Tensor,
    strength: float,
    start_at: float,
    end_at: float,
) -> tuple[Any, Conditioning]:
    """Return a clone of the model with the region, and both texts."""
    return add_region(
        model, conditioning, region, mask, strength=strength, start=start_at, end=end_at
    )


NODES = (
    NodeSpec(
        id="AttentionPatchesWordWeights",
        title="Word Weights (attention patches)",
        category="attnpatch",
        description="Encodes a prompt whose words have weights, which act in the model's "
        "attention: also where the text encoder is a language model that knows no weights (Flux.2 "
        "and Klein, Krea 2, Qwen-Image, Z-Image). Sample with both of what it gives.",
        inputs=(
            common.MODEL,
            Input(id="clip", type="CLIP", tooltip="The model's text encoder."),
            Input(
                id="text",
                type="STRING",
                default="a (red:1.4) hat, (blur:-0.5)",
                multiline=True,
                tooltip="The prompt: (word:1.4) is looked at more, (word:0.5) less, (word:0) not "
                "at all; below 0 it pushes away. A backslash makes a parenthesis a character.",
            ),
            common.START_AT,
            common.END_AT,
        ),
        outputs=(
            Output("MODEL", "MODEL", "The model that gives the words their weights."),
            Output("CONDITIONING", "CONDITIONING", "The prompt without weights."),
        ),
        run=_weigh,
    ),
    NodeSpec(
        id="AttentionPatchesRegionalPrompt",
        title="Regional Prompt (attention patches)",
        category="attnpatch",
        description="Adds a text that is seen in its own region alone to one that is seen "
        "everywhere, in one call of the model. Several of these nodes, one after the other, are "
        "several regions. Sample with both of what the last one gives.",
        inputs=(
            common.MODEL,
            Input(
                id="conditioning",
                type="CONDITIONING",
                tooltip="The text that is seen everywhere, or what the node before gave.",
            ),
            Input(id="region", type="CONDITIONING", tooltip="The text of the region."),
            Input(
                id="mask",
                type="MASK",
                tooltip="Where the region is. Several masks: one for each picture of the batch.",
            ),
            Input(
                id="strength",
                type="FLOAT",
                default=1.0,
                minimum=0.0,
                maximum=10.0,
                step=0.01,
                tooltip="How much the region's text counts there beside the others.",
            ),
            common.START_AT,
            common.END_AT,
        ),
        outputs=(
            Output("MODEL", "MODEL", "The model that keeps the text to its region."),
            Output("CONDITIONING", "CONDITIONING", "Both texts."),
        ),
        run=_add_region,
    ),
)
