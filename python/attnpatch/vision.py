# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures for the encoders that image prompts need; numpy in and out."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from types import ModuleType

Crop = Literal["center", "top", "bottom", "left", "right", "pad"]

_CHANNELS = 3


def clip_preprocess(
    images: npt.ArrayLike | Sequence[npt.ArrayLike],
    size: int = 224,
    *,
    crop: Crop = "center",
    normalize: bool = True,
) -> npt.NDArray[np.float32]:
    """Make pictures of any size what a CLIP vision tower takes.

    The shorter side is resized to `size` (bicubic, antialiased), a square of it is kept, and each
    channel becomes (x - mean) / std. Bit for bit the same as transformers' ``CLIPImageProcessor``
    (its Pillow form), which also means that floats are cut to 8 bits first. One difference: there,
    a float picture of nothing but zeros and ones counts as one in 0 … 255; here it does not.

    Parameters
    ----------
    images : array or sequence of arrays
        RGB (H, W, 3) or (B, H, W, 3); uint8, or float16, float32 or float64 in [0, 1]; any strides.
        Whatever numpy makes such an array of will do, as an RGB picture of Pillow or a tensor on
        the CPU. A list or tuple of pictures may mix sizes and dtypes.
    size : int
        Side of the result in pixels, 1 to 8192: 224 for CLIP ViT-L, H and G; 336 for ViT-L-336.
    crop : {"center", "top", "bottom", "left", "right", "pad"}
        Which square to keep. "top" and "bottom" matter to tall pictures, "left" and "right" to wide
        ones; the other axis stays centred. "pad" keeps the whole picture: its longer side becomes
        `size`, the rest is black.
    normalize : bool
        False gives the picture before (x - mean) / std, in [0, 1].

    Returns
    -------
    ndarray
        float32 (B, 3, size, size), contiguous; B = 1 for a single picture.

    Raises
    ------
    ValueError
        For another shape, no pixels, a float that is not finite or more than 0.001 outside [0, 1]
        (nearer ones are clamped), a `size` out of range or an unknown `crop`.
    TypeError
        For another dtype, or a `size` that is no integer.
    ImportError
        When attnpatch was built without OpenCV.
    """
    engine = _engine()
    try:
        size = operator.index(size)
    except TypeError:
        raise TypeError(f"size: expected an integer, got {size!r}") from None
    if not 0 < size <= engine.MAX_CLIP_SIZE:
        raise ValueError(f"size: expected 1 to {engine.MAX_CLIP_SIZE}, got {size}")
    if not isinstance(crop, str):
        raise TypeError(f"crop: expected a string, got {crop!r}")
    if isinstance(images, (list, tuple)):
        if not images:
            raise ValueError("images: expected at least one picture, got an empty sequence")
        pictures = [_as_batch(picture, f"images[{i}]") for i, picture in enumerate(images)]
    else:
        pictures = [_as_batch(images, "images")]
    pixels = [engine.clip_preprocess(batch, size, crop, bool(normalize)) for batch in pictures]
    return pixels[0] if len(pixels) == 1 else np.concatenate(pixels)


def _as_batch(picture: Any, name: str) -> npt.NDArray[Any]:
    """Check a picture or a batch; return it contiguous, (B, H, W, 3), in a dtype of the engine."""
    array = np.asarray(picture)
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    if array.dtype not in (np.uint8, np.float32, np.float64):
        raise TypeError(f"{name}: expected uint8, float16, float32 or float64, got {array.dtype}")
    if array.ndim not in (3, 4) or array.shape[-1] != _CHANNELS:
        raise ValueError(
            f"{name}: expected RGB of shape (H, W, 3) or (B, H, W, 3), got {array.shape}"
        )
    if 0 in array.shape[-3:]:
        raise ValueError(f"{name}: expected at least one pixel, got the shape {array.shape}")
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return np.ascontiguousarray(native[None] if array.ndim == 3 else native)


def _engine() -> ModuleType:
    try:
        from attnpatch import _vision
    except ImportError as error:
        raise ImportError(
            "attnpatch.vision needs the extension module attnpatch._vision, which is built where "
            "OpenCV and Eigen are found: install them (on Debian libopencv-dev and "
            f"libeigen3-dev) and install attnpatch from source again. ({error})"
        ) from error
    return _vision
