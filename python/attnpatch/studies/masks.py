# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Masks as a study writes them: a picture's brightness, or a box."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from attnpatch.pictures import read_picture
from attnpatch.studies.values import text

__all__ = ["box_mask", "read_mask"]

_BOX = 64  # rows and columns of the mask that a box becomes


def box_mask(box: Sequence[object]) -> Tensor:
    """Return the mask (64, 64) of a box ``[left, top, right, bottom]``, parts of the picture.

    Raises
    ------
    ValueError
        For other numbers, and for a box that is too thin to cover a part of the mask.
    """
    edges = [edge for edge in box if isinstance(edge, int | float) and not isinstance(edge, bool)]
    if (
        len(box) != 4
        or len(edges) != 4
        or not (0 <= edges[0] < edges[2] <= 1 and 0 <= edges[1] < edges[3] <= 1)
    ):
        raise ValueError(
            "mask: expected a file, or [left, top, right, bottom] as parts of 0 to 1, got "
            f"{list(box)!r}"
        )
    left, top, right, bottom = (round(edge * _BOX) for edge in edges)
    mask = torch.zeros(_BOX, _BOX)
    mask[top:bottom, left:right] = 1.0
    if not mask.any():
        raise ValueError(f"mask: expected a box at least 1/{_BOX} wide and high, got {list(box)!r}")
    return mask


def read_mask(mask: object, folder: Path) -> Tensor:
    """Return the mask of a box, or of a picture: its brightness, 0 to 1.

    Raises
    ------
    OSError, TypeError, ValueError
        For what is neither.
    """
    if isinstance(mask, tuple):
        return box_mask(mask)
    levels = read_picture(folder / text("mask", mask), "mask").astype(np.float32)
    return torch.from_numpy(levels.mean(-1) / 255.0)
