# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures for the encoders that image prompts need, as numpy arrays."""

from __future__ import annotations

import operator
from typing import Literal

import numpy as np
import numpy.typing as npt

from attnpatch._native import vision_module
from attnpatch.pictures import WHITE, Colour, Pictures, read_pictures

__all__ = ["Crop", "clip_preprocess"]

Crop = Literal["center", "top", "bottom", "left", "right", "pad"]


def clip_preprocess(
    images: Pictures,
    size: int = 224,
    *,
    crop: Crop = "center",
    normalize: bool = True,
    background: Colour = WHITE,
) -> npt.NDArray[np.float32]:
    """Make pictures of any size what a CLIP vision tower takes.

    The shorter side is resized to `size` (bicubic, antialiased), a square of it is kept, and each
    channel becomes (x - mean) / std. Bit for bit the same as transformers' ``CLIPImageProcessor``
    (its Pillow form), which also means that floats are cut to 8 bits first. One difference: there,
    a float picture of nothing but zeros and ones counts as one in 0 … 255; here it does not.

    Parameters
    ----------
    images : picture, or list or tuple of pictures
        Files, pictures of Pillow, arrays or tensors, RGB (H, W, 3) or (B, H, W, 3), in any mode or
        dtype that `attnpatch.pictures.read_picture` takes. Several may mix kinds and sizes.
    size : int
        Side of the result in pixels, 1 to 8192: 224 for CLIP ViT-L, H and G; 336 for ViT-L-336.
    crop : {"center", "top", "bottom", "left", "right", "pad"}
        Which square to keep. "top" and "bottom" matter to tall pictures, "left" and "right" to wide
        ones; the other axis stays centred. "pad" keeps the whole picture: its longer side becomes
        `size`, the rest is black.
    normalize : bool
        False gives the picture before (x - mean) / std, in [0, 1].
    background : (int, int, int)
        What lies behind transparent pixels: red, green and blue, 0 to 255.

    Returns
    -------
    ndarray
        float32 (B, 3, size, size), contiguous; B = 1 for a single picture.

    Raises
    ------
    ValueError
        For another shape, no pixels, a float that is not finite or more than 0.001 outside [0, 1]
        (nearer ones are clamped), a mode of Pillow whose range is not known, a `size` out of range
        or an unknown `crop`.
    TypeError
        For another dtype, or a `size` that is no integer.
    OSError
        For a file that is missing, damaged or no picture.
    ImportError
        When attnpatch was built without OpenCV.
    """
    engine = vision_module("attnpatch.vision")
    try:
        size = operator.index(size)
    except TypeError:
        raise TypeError(f"size: expected an integer, got {size!r}") from None
    if not 0 < size <= engine.MAX_CLIP_SIZE:
        raise ValueError(f"size: expected 1 to {engine.MAX_CLIP_SIZE}, got {size}")
    if not isinstance(crop, str):
        raise TypeError(f"crop: expected a string, got {crop!r}")
    pixels = [np.empty((0, 3, size, size), np.float32)]  # of a batch of none that is all
    for picture in read_pictures(images, "images", background=background):
        pixels.append(engine.clip_preprocess(picture[None], size, crop, bool(normalize)))
    return np.concatenate(pixels)
