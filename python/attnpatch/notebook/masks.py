# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Masks that a few numbers say."""

from __future__ import annotations

import torch
from torch import Tensor

from attnpatch.engine.weights import number

__all__ = ["box_mask"]


def box_mask(
    left: float, top: float, right: float, bottom: float, *, soft: float = 0.0, side: int = 64
) -> Tensor:
    """Make a mask of a box: 1 in it, 0 outside.

    Parameters
    ----------
    left, top, right, bottom : float
        The box in parts of the picture, 0 to 1.
    soft : float
        How wide its edges are, in parts of the picture: the mask falls from 1 to 0 in a straight
        line, half of it inside. The picture's own edges stay hard.
    side : int
        Rows and columns of the mask.

    Returns
    -------
    Tensor
        float32 (side, side).

    Raises
    ------
    TypeError, ValueError
        For what is no box, naming it.

    Examples
    --------
    >>> box_mask(0.0, 0.0, 0.5, 1.0, side=4)[0]
    tensor([1., 1., 0., 0.])
    """
    edges = {"left": left, "top": top, "right": right, "bottom": bottom}
    for name, value in {**edges, "soft": soft}.items():
        if not 0 <= number(name, value) <= 1:
            raise ValueError(f"{name}: expected 0 to 1, got {value}")
    if left > right or top > bottom:
        raise ValueError(
            f"box: expected left <= right and top <= bottom, got {left}, {top}, {right}, {bottom}"
        )
    if side < 1:
        raise ValueError(f"side: expected at least 1, got {side}")
    across, down = _side(left, right, soft, side), _side(top, bottom, soft, side)
    return down[:, None] * across


def _side(start: float, end: float, soft: float, side: int) -> Tensor:
    """One dimension: how far the middle of each pixel is inside."""
    middles = (torch.arange(side) + 0.5) / side
    inside = torch.full((side,), 1.0)
    for edge, distance in ((start, middles - start), (end, end - middles)):
        if edge not in (0.0, 1.0):  # of the picture itself
            ramp = (distance / soft + 0.5).clamp(0, 1) if soft else (distance > 0).float()
            inside = torch.minimum(inside, ramp)
    return inside * (start < end)
