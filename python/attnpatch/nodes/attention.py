# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The node that shows what self-attention guidance recorded."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

import attnpatch
from attnpatch.nodes.spec import Input, NodeSpec, Output

__all__ = ["NODES"]

_HEAT, _MASK = "heat map", "mask of the blur"


def _show(
    *, model: Any, image: Tensor, show: str, threshold: float, opacity: float
) -> tuple[Tensor]:
    maps = attnpatch.recorded_attention(model)
    if maps is None:
        raise ValueError(
            "model: nothing was recorded; expected a model with our self-attention guidance, and a "
            "picture that was sampled with it"
        )
    if len(maps) not in (1, len(image)):
        raise ValueError(
            f"image: {len(image)} pictures, but {len(maps)} were sampled with the model last"
        )
    shown = []
    for index, picture in enumerate(image):
        levels = (picture[..., :3].float().clamp(0, 1) * 255).round().to(torch.uint8)
        drawn = attnpatch.show_attention(
            maps[index % len(maps)],
            picture=levels,
            threshold=threshold if show == _MASK else None,
            opacity=opacity,
        )
        shown.append(torch.from_numpy(np.array(drawn)).float() / 255)
    return (torch.stack(shown),)


NODES = (
    NodeSpec(
        id="AttentionPatchesShowAttention",
        title="Show Recorded Attention (attention patches)",
        category="attnpatch",
        description="Draws over a picture where the model looked in the last step of sampling, as "
        "our self-attention guidance recorded it.",
        inputs=(
            Input(
                id="model",
                type="MODEL",
                tooltip="The very model that the picture was sampled with.",
            ),
            Input(id="image", type="IMAGE", tooltip="What was sampled, decoded."),
            Input(
                id="show",
                type="COMBO",
                choices=(_HEAT, _MASK),
                tooltip="Attention in colours, from blue (none) to red (twice the mean and more); "
                "or what guidance blurs.",
            ),
            Input(
                id="threshold",
                type="FLOAT",
                default=1.0,
                minimum=0.0,
                maximum=10.0,
                step=0.01,
                tooltip="Of the mask: what gets more attention than this is in it.",
            ),
            Input(
                id="opacity",
                type="FLOAT",
                default=0.6,
                minimum=0.0,
                maximum=1.0,
                step=0.01,
                tooltip="Of the colours over the picture.",
            ),
        ),
        outputs=(Output("IMAGE", "IMAGE", "The pictures with the attention over them."),),
        run=_show,
    ),
)
