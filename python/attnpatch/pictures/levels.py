# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Values of any depth, cut to the 256 levels of 8 bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["from_values", "to_levels"]

_TOLERANCE = 1e-3
_AXES = ("row", "column", "channel")


def to_levels(array: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint8]:
    """Cut an array to 8 bits by its dtype.

    Parameters
    ----------
    array
        Of uint8; of uint16, whose 65535 is white; of bool, whose True is white; or of floats in
        [0, 1].
    name
        The argument, for errors.

    Returns
    -------
    ndarray
        uint8, of the same shape.

    Raises
    ------
    TypeError
        Another dtype: where its white lies is not known.
    ValueError
        A float that is not finite, or more than 0.001 outside [0, 1] (nearer ones are clamped).
    """
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return from_values(array, 65535)
    if array.dtype.kind != "f":
        raise TypeError(
            f"{name}: expected uint8, uint16, bool or floats in [0, 1], got {array.dtype}"
        )
    floats = array.astype(np.float64 if array.dtype.itemsize >= 8 else np.float32, copy=False)
    _check_range(floats, name)
    # Through float32, as CLIP's reference does: 0.99999999 of a level in float64 is the level.
    levels = (floats.clip(0, 1) * floats.dtype.type(255)).astype(np.float32, copy=False)
    return levels.astype(np.uint8)


def from_values(array: npt.NDArray[Any], white: int) -> npt.NDArray[np.uint8]:
    """Scale whole numbers in 0 … `white` (at most 65535) to the nearest of 256 levels."""
    # 8 bits that were widened come back as they were: 255 levels of 257 each make 65535.
    return ((array.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)


def _check_range(array: npt.NDArray[Any], name: str) -> None:
    good = (array >= -_TOLERANCE) & (array <= 1 + _TOLERANCE)
    if good.all():
        return
    where = np.unravel_index(int(np.argmin(good)), good.shape)
    position = ", ".join(f"{axis} {i}" for axis, i in zip(_AXES, where, strict=False))
    raise ValueError(
        f"{name}: expected finite values in [0, 1], got {array[where]} at {position}; pictures "
        "from 0 to 255 must be uint8"
    )
