# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What lies behind transparent pictures."""

from __future__ import annotations

import operator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["WHITE", "Colour", "check_colour", "lay_over"]

Colour: TypeAlias = tuple[int, int, int]
"""Red, green and blue, 0 to 255 each."""

WHITE: Colour = (255, 255, 255)
"""The background where none is given: that of a page."""


def check_colour(colour: Any, name: str = "background") -> Colour:
    """Return a colour as three integers.

    Raises
    ------
    ValueError, TypeError
        For anything but three integers in 0 … 255.
    """
    try:
        values = tuple(operator.index(value) for value in colour)
    except TypeError:
        raise TypeError(f"{name}: expected three integers 0 to 255, got {colour!r}") from None
    if len(values) != 3 or min(values) < 0 or max(values) > 255:
        raise ValueError(f"{name}: expected three integers 0 to 255, got {colour!r}")
    return values


def lay_over(
    pixels: npt.NDArray[np.uint8], alpha: npt.NDArray[np.uint8], background: Colour
) -> npt.NDArray[np.uint8]:
    """Lay a picture (H, W, 3) of the opacity `alpha` (H, W) over a colour."""
    opacity = alpha[..., None].astype(np.uint32)
    mixed = pixels * opacity + np.asarray(background, np.uint32) * (255 - opacity)
    return ((mixed + 127) // 255).astype(np.uint8)
