# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Stable Diffusion 3 and 3.5: [image; text]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnpatch.engine import IMAGE, TEXT, JointTable, joined
from attnpatch.hosts.diffusers.transformer.sequence import Sequenced, joint_table

__all__ = ["SD3"]

_TRAIN_STEPS = 1000


class SD3:
    """Joint blocks; the second attention of some, of the image to itself, is left alone."""

    spans = (IMAGE, TEXT)
    text_masks: tuple[str, ...] = ()

    def layer_table(self, model: Any) -> JointTable:
        """Return its layers of joint attention, in forward order."""
        return joint_table(model, {"transformer_blocks.attn": "double"})

    def sequence(self, model: Any, arguments: Mapping[str, Any]) -> Sequenced:
        """Return the sequence of a call; see ``Family``."""
        latent, text = arguments["hidden_states"], arguments["encoder_hidden_states"]
        patch = model.config.patch_size
        grid = latent.shape[-2] // patch, latent.shape[-1] // patch
        tokens = joined([(IMAGE, grid[0] * grid[1], grid), (TEXT, text.shape[1], None)])
        return Sequenced(
            batch=len(latent),
            attentions=((tokens, tokens),),
            sigma=arguments["timestep"] / _TRAIN_STEPS,
            text=text,
        )
