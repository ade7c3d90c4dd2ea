# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Reading pictures in whatever form they come."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
import numpy.typing as npt
import torch

from attnpatch.pictures.background import WHITE, Colour, check_colour
from attnpatch.pictures.levels import to_levels
from attnpatch.pictures.pillow import is_pillow, read_file, read_pillow

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Picture", "Pictures", "Pixels", "read_picture", "read_pictures"]

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""RGB (H, W, 3), contiguous."""

# By name, as Pillow need not be there.
Picture: TypeAlias = Union[str, os.PathLike[str], "Image.Image", npt.NDArray[Any], torch.Tensor]
"""A file, a picture of Pillow, an array or a tensor; see `read_picture`."""

Pictures: TypeAlias = Picture | Sequence[Picture]
"""One of them, a batch (B, H, W, 3), or a list or tuple of any of these."""


def read_picture(
    image: Picture, name: str = "image", *, background: Colour = WHITE, bgr: bool = False
) -> Pixels:
    """Read one picture as 8-bit RGB.

    Parameters
    ----------
    image
        A file's path or a picture of Pillow, of any mode whose range is known: they are turned
        upright by their EXIF data; 16 bits are scaled to 8; grey, palettes, premultiplied alpha,
        CMYK, YCbCr, HSV and LAB become RGB; colour profiles are not applied. Of an animated file
        the first frame; a picture of Pillow is read at the frame where it is.
        Or an array, or a tensor on any device: RGB (H, W, 3), channels last, or a batch of one
        (1, H, W, 3); uint8; uint16, white at 65535; floats in [0, 1], cut to 8 bits; or bool, also
        as a mask (H, W).
    name
        The argument's name, for errors.
    background
        What lies behind transparent pixels: red, green and blue, 0 to 255.
    bgr
        Whether the channels of an array are blue, green, red, as OpenCV has them. Files and
        pictures of Pillow know their order by themselves.

    Returns
    -------
    ndarray
        uint8 (H, W, 3), contiguous.

    Raises
    ------
    ValueError
        Another shape, no pixels, floats that are not finite or outside [0, 1], or a picture of
        Pillow in a mode whose range is not known, as I (32 bits) and F outside [0, 1].
    TypeError
        Another dtype, or no picture at all.
    OSError
        A file that is missing, damaged, cut off or no picture; the error names it.
    """
    pictures = _read(image, name, check_colour(background), bgr)
    if len(pictures) != 1:
        raise ValueError(f"{name}: expected one picture, got a batch of {len(pictures)}")
    return pictures[0]


def read_pictures(
    images: Pictures, name: str = "images", *, background: Colour = WHITE, bgr: bool = False
) -> list[Pixels]:
    """Read one picture, a batch (B, H, W, 3), or a list or tuple of them; see `read_picture`.

    Returns
    -------
    list of ndarray
        uint8 (H, W, 3) each; of a batch of none an empty list.

    Raises
    ------
    ValueError
        Also for an empty sequence.
    """
    colour = check_colour(background)
    if not isinstance(images, list | tuple):
        return _read(images, name, colour, bgr)
    if not images:
        raise ValueError(f"{name}: expected at least one picture, got an empty sequence")
    batches = (_read(image, f"{name}[{i}]", colour, bgr) for i, image in enumerate(images))
    return [picture for batch in batches for picture in batch]


def _read(image: Any, name: str, background: Colour, bgr: bool) -> list[Pixels]:
    """Read a picture or a batch."""
    if is_pillow(image):
        return [_from_array(read_pillow(image, name, background), name)]
    if isinstance(image, str | os.PathLike):
        return [_from_array(read_file(image, name, background), name)]
    array = _as_array(image, name)
    if bgr and array.ndim > 2:  # a mask has no channels
        array = array[..., ::-1]
    if array.ndim != 4:
        return [_from_array(array, name)]
    if array.shape[-1] != 3:
        raise _wrong_shape(array, name)
    if len(array) == 1:
        return [_from_array(array[0], name)]
    return [_from_array(picture, f"{name}[{i}]") for i, picture in enumerate(array)]


def _as_array(image: Any, name: str) -> npt.NDArray[Any]:
    if isinstance(image, torch.Tensor):
        tensor = image.detach().cpu()
        if tensor.dtype == torch.bfloat16:  # numpy has none
            tensor = tensor.float()
        return tensor.numpy()
    if isinstance(image, np.ndarray) or hasattr(image, "__array__"):
        return np.asarray(image)
    raise TypeError(
        f"{name}: expected a picture: a file's path, an array, a tensor or a picture of Pillow, "
        f"got {type(image).__name__}"
    )


def _from_array(array: npt.NDArray[Any], name: str) -> Pixels:
    mask = array.ndim == 2 and array.dtype == np.bool_
    if not mask and (array.ndim != 3 or array.shape[-1] != 3):
        raise _wrong_shape(array, name)
    if 0 in array.shape:
        raise ValueError(f"{name}: expected at least one pixel, got the shape {array.shape}")
    levels = to_levels(array, name)
    if mask:
        return np.repeat(levels[..., None], 3, axis=2)
    return np.ascontiguousarray(levels)


def _wrong_shape(array: npt.NDArray[Any], name: str) -> ValueError:
    first = array.ndim in (3, 4) and array.shape[-3] == 3
    hint = "; channels come last: move them" if first else ""
    return ValueError(
        f"{name}: expected RGB of shape (H, W, 3), or a batch (B, H, W, 3), got {array.shape}{hint}"
    )
