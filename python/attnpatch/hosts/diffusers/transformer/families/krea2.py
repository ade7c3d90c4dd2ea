# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Krea 2: [text; image; references], one kind of block, fewer heads of keys than of queries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnpatch.engine import IMAGE, REFERENCE, TEXT, JointTable, joined
from attnpatch.hosts.diffusers.transformer.sequence import Sequenced, joint_table, parts_of_ids

__all__ = ["Krea2"]


class Krea2:
    """Its text is fused before by layers of their own, which are left alone."""

    spans = (TEXT, IMAGE, REFERENCE)
    text_masks: tuple[str, ...] = ("encoder_attention_mask",)

    def layer_table(self, model: Any) -> JointTable:
        """Return its layers of joint attention, in forward order."""
        return joint_table(model, {"transformer_blocks.attn": "single"})

    def sequence(self, model: Any, arguments: Mapping[str, Any]) -> Sequenced:
        """Return the sequence of a call; see ``Family``."""
        text = arguments["encoder_hidden_states"]
        pictures = parts_of_ids(arguments["position_ids"], text.shape[1])
        tokens = joined([(TEXT, text.shape[1], None), *pictures])
        return Sequenced(
            batch=len(arguments["hidden_states"]),
            attentions=((tokens, tokens),),
            sigma=arguments["timestep"],
            text=text,
        )
