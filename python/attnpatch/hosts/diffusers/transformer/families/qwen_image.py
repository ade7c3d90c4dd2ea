# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Qwen-Image and its edit models: [text; image; references]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attnpatch.engine import IMAGE, REFERENCE, TEXT, JointTable, Part, joined
from attnpatch.hosts.diffusers.transformer.sequence import Sequenced, joint_table

__all__ = ["QwenImage"]


class QwenImage:
    """Double blocks alone; the text may be padded, which its own mask says."""

    spans = (TEXT, IMAGE, REFERENCE)
    text_masks: tuple[str, ...] = ("encoder_hidden_states_mask",)

    def layer_table(self, model: Any) -> JointTable:
        """Return its layers of joint attention, in forward order."""
        return joint_table(model, {"transformer_blocks.attn": "double"})

    def sequence(self, model: Any, arguments: Mapping[str, Any]) -> Sequenced:
        """Return the sequence of a call; see ``Family``.

        Raises
        ------
        ValueError
            Where rows have pictures of different sizes, or the image has several layers.
        """
        if getattr(model.config, "use_layer3d_rope", False):
            raise ValueError(
                "img_shapes: expected an image of one layer where patches act, got a "
                "QwenImageTransformer2DModel of layered images (use_layer3d_rope)"
            )
        text = arguments["encoder_hidden_states"]
        tokens = joined([(TEXT, text.shape[1], None), *_pictures(arguments["img_shapes"])])
        return Sequenced(
            batch=len(arguments["hidden_states"]),
            attentions=((tokens, tokens),),
            sigma=arguments["timestep"],
            text=text,
        )


def _pictures(shapes: Sequence[Any]) -> list[Part]:
    rows = [row if isinstance(row, list) else [row] for row in shapes]
    if any(row != rows[0] for row in rows):
        raise ValueError(
            f"img_shapes: expected rows of the same sizes where patches act, got {shapes}"
        )
    if rows[0][0][0] != 1:
        raise ValueError(
            f"img_shapes: expected an image of one layer where patches act, got {rows[0][0][0]}"
        )
    return [
        (IMAGE if index == 0 else REFERENCE, frames * height * width, _grid(frames, height, width))
        for index, (frames, height, width) in enumerate(rows[0])
    ]


def _grid(frames: int, height: int, width: int) -> tuple[int, int] | None:
    return (height, width) if frames == 1 else None
