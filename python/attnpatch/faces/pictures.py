# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures as face networks take them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["as_picture", "as_pictures"]

_TOLERANCE = 1e-3


def as_picture(image: Any, name: str = "image") -> npt.NDArray[np.uint8]:
    """Read an RGB picture: uint8, or floats in [0, 1], which are cut to 8 bits.

    Parameters
    ----------
    image
        (H, W, 3), or a batch of one (1, H, W, 3): an array, a tensor on any device, or an RGB
        picture of Pillow.

    Returns
    -------
    ndarray
        uint8 (H, W, 3), contiguous.

    Raises
    ------
    ValueError
        Another shape, no pixels, floats that are not finite or outside [0, 1].
    TypeError
        Another dtype.
    """
    if hasattr(image, "detach"):
        image = image.detach().cpu().float() if image.is_floating_point() else image.cpu()
    array = np.asarray(image)
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ValueError(f"{name}: expected RGB of shape (H, W, 3), not empty; got {array.shape}")
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype.kind != "f":
        raise TypeError(f"{name}: expected uint8 or floats, got {array.dtype}")
    array = array.astype(np.float32, copy=False)
    low, high = float(array.min()), float(array.max())
    if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):
        raise ValueError(
            f"{name}: expected finite values in [0, 1], got {low} to {high}; pictures from 0 to "
            "255 must be uint8"
        )
    return np.ascontiguousarray((array * np.float32(255)).clip(0, 255).astype(np.uint8))


def as_pictures(images: Any, name: str = "images") -> list[npt.NDArray[np.uint8]]:
    """Read one picture, a batch (B, H, W, 3), or a sequence of pictures."""
    if isinstance(images, list | tuple) or getattr(images, "ndim", 3) == 4:
        pictures = [as_picture(image, f"{name}[{i}]") for i, image in enumerate(images)]
    else:
        pictures = [as_picture(images, name)]
    if not pictures:
        raise ValueError(f"{name}: expected at least one picture, got none")
    return pictures
