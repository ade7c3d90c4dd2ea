# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Masks that a few numbers say, or a short text."""

from __future__ import annotations

import base64
import binascii
import zlib

import torch
from torch import Tensor

from attnpatch.engine.weights import number, whole_number

__all__ = ["SIDE", "box_mask", "drawn_mask", "mask_text"]

SIDE = 64
"""Rows and columns of a drawn mask: as many as a picture of 512 pixels has tokens."""


def box_mask(
    left: float, top: float, right: float, bottom: float, *, soft: float = 0.0, side: int = SIDE
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
    side = whole_number("side", side, 1)
    across, down = _side(left, right, soft, side), _side(top, bottom, soft, side)
    return down[:, None] * across


def drawn_mask(text: str) -> Tensor:
    """Make the mask that was drawn in a cell of ``explore``, from its text.

    Parameters
    ----------
    text : str
        As the cell's code has it.

    Returns
    -------
    Tensor
        float32 (64, 64), 0 to 1.

    Raises
    ------
    ValueError
        For another text.
    """
    try:
        unpacking = zlib.decompressobj()
        levels = unpacking.decompress(base64.b64decode(text, validate=True), SIDE * SIDE + 1)
        whole = unpacking.eof
    except (zlib.error, binascii.Error, ValueError, TypeError):
        levels, whole = b"", False
    if len(levels) != SIDE * SIDE or not whole:
        shown = f"{text[:40]!r}…" if isinstance(text, str) and len(text) > 40 else repr(text)
        raise ValueError(f"text: expected that of a drawn mask, got {shown}")
    return torch.tensor(list(levels), dtype=torch.float32).reshape(SIDE, SIDE) / 255


def mask_text(levels: bytes) -> str:
    """Write a mask of 64 × 64 levels, 0 to 255, row by row, as the text for ``drawn_mask``."""
    if len(levels) != SIDE * SIDE:
        raise ValueError(f"levels: expected {SIDE * SIDE} bytes, got {len(levels)}")
    return base64.b64encode(zlib.compress(levels, 9)).decode("ascii")


def _side(start: float, end: float, soft: float, side: int) -> Tensor:
    """One dimension: how far the middle of each pixel is inside."""
    middles = (torch.arange(side) + 0.5) / side
    inside = torch.full((side,), 1.0)
    for edge, distance in ((start, middles - start), (end, end - middles)):
        if edge not in (0.0, 1.0):  # of the picture itself
            ramp = (distance / soft + 0.5).clamp(0, 1) if soft else (distance > 0).float()
            inside = torch.minimum(inside, ramp)
    return inside * (start < end)
