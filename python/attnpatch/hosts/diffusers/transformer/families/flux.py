# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Flux.1 with Kontext, Fill and Krea-dev, and Chroma: [text; image; references]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnpatch.engine import IMAGE, REFERENCE, TEXT, JointTable, joined
from attnpatch.hosts.diffusers.transformer.sequence import Sequenced, joint_table, parts_of_ids

__all__ = ["Flux"]


class Flux:
    """Double blocks keep text and image apart but in attention; single blocks have one stream."""

    spans = (TEXT, IMAGE, REFERENCE)
    text_masks: tuple[str, ...] = ("attention_mask",)

    def layer_table(self, model: Any) -> JointTable:
        """Return its layers of joint attention, in forward order."""
        return joint_table(
            model, {"transformer_blocks.attn": "double", "single_transformer_blocks.attn": "single"}
        )

    def sequence(self, model: Any, arguments: Mapping[str, Any]) -> Sequenced:
        """Return the sequence of a call; see ``Family``."""
        text = arguments["encoder_hidden_states"]
        pictures = parts_of_ids(arguments["img_ids"])
        tokens = joined([(TEXT, text.shape[1], None), *pictures])
        return Sequenced(
            batch=len(arguments["hidden_states"]),
            attentions=((tokens, tokens),),
            sigma=arguments["timestep"],
            text=text,
        )
