# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Files and pictures of Pillow, of any mode, as upright 8-bit RGB; or refused, naming the mode."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import numpy.typing as npt

from attnpatch.pictures.background import Colour, lay_over
from attnpatch.pictures.levels import from_values, to_levels

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["is_pillow", "read_file", "read_pillow"]

logger = logging.getLogger("attnpatch")

_ORIENTATION = 0x0112  # EXIF's
_BITS, _PHOTOMETRIC = 258, 262  # TIFF's
_WHITE_IS_ZERO = 0
_OPAQUE = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")
_TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")
_KEYED = ("1", "L", "RGB")  # modes in which one colour may stand for transparent
# Whose 16-bit modes run from 0 to 65535, pictures made in memory among them; some others are
# signed. In mode I that is known of two formats alone.
_UNSIGNED = (None, "PNG", "PPM", "TIFF", "JPEG2000")
_WIDE = ("PNG", "PPM")


def is_pillow(image: object) -> TypeGuard[Image.Image]:
    """Whether `image` is a picture of Pillow; without importing it."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(image, pillow.Image)


def read_file(path: str | os.PathLike[str], name: str, background: Colour) -> npt.NDArray[np.uint8]:
    """Read a picture's file; of an animated one, or one of several pages, the first.

    Raises
    ------
    OSError
        A file that is missing, damaged, cut off or no picture, naming it.
    ValueError
        A picture whose mode is not understood, naming file and mode.
    ImportError
        Without Pillow.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(f"{name}: files of pictures are read by Pillow; install it") from error
    with Path(path).open("rb") as opened:
        try:
            image = Image.open(opened)
            several = getattr(image, "is_animated", False)
        except Exception as error:
            raise _damaged(name, path, error) from error
        if several:
            logger.info("%s: %s has several frames or pages, the first is taken", name, path)
        return read_pillow(image, name, background, os.fspath(path))


def read_pillow(
    image: Image.Image, name: str, background: Colour, file: str = ""
) -> npt.NDArray[np.uint8]:
    """Read a picture of Pillow, at the frame where it is.

    Parameters
    ----------
    image
        Of any mode; it stays as it is, but for being loaded.
    name
        The argument, for errors.
    background
        What lies behind transparent pixels.
    file
        What errors call it; by default the file that Pillow opened.

    Returns
    -------
    ndarray
        uint8 (H, W, 3), contiguous, turned as its EXIF data say.
    """
    file = file or str(getattr(image, "filename", ""))
    depth = _Depth.of(image)
    key = _transparent_colour(image)  # what it means is known before loading only
    try:
        image.load()
    except Exception as error:
        raise _damaged(name, file or repr(image), error) from error
    turned = _upright(image, name, file)
    label = f"{name} ({file})" if file else name
    if depth is not None:
        return _deep(turned, depth, key, label, background)
    if key is not None and turned.mode in _KEYED:
        pixels = np.asarray(turned.convert("RGB"))
        alpha = np.where((pixels == key).all(-1), 0, 255).astype(np.uint8)
        return lay_over(pixels, alpha, background)
    if turned.mode in _TRANSPARENT or (turned.mode == "P" and turned.has_transparency_data):
        # Pillow divides by alpha (modes La, RGBa) on these ways alone.
        straight = turned.convert("LA") if turned.mode == "La" else turned
        pixels = np.asarray(straight.convert("RGBA"))
        return lay_over(pixels[..., :3], pixels[..., 3], background)
    if turned.mode in _OPAQUE:
        return np.array(turned.convert("RGB"))
    raise ValueError(
        f"{label}: expected a picture whose range is known, got Pillow's mode {turned.mode!r}; "
        "scale it to 8 bits, or pass an array of floats in [0, 1]"
    )


@dataclass(frozen=True)
class _Depth:
    """How the numbers of a grey picture of more than 8 bits are meant."""

    white: int | None
    """Its white as a whole number; None: floats in [0, 1]."""
    inverted: bool

    @classmethod
    def of(cls, image: Image.Image) -> _Depth | None:
        """Return a picture's depth; None where it has 8 bits or is not understood."""
        tags: Any = getattr(image, "tag_v2", {})
        inverted = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
        if image.mode == "F":
            return cls(None, inverted)
        if image.mode.startswith("I;16") and image.format in _UNSIGNED:
            bits = tags.get(_BITS, (16,))[0]  # 12 in some TIFF files, which Pillow does not scale
            return cls((1 << bits) - 1, inverted)
        if image.mode == "I" and image.format in _WIDE:
            return cls(65535, False)
        return None


def _deep(
    image: Image.Image, depth: _Depth, key: Any, label: str, background: Colour
) -> npt.NDArray[np.uint8]:
    """Cut a grey picture of more than 8 bits to 8, as RGB."""
    values = np.asarray(image)
    if depth.white is None:
        grey = to_levels(values, f"{label}, of Pillow's mode {image.mode}")
    else:
        grey = from_values(values.clip(0, depth.white), depth.white)
    if depth.inverted:
        grey = 255 - grey
    pixels = np.repeat(grey[..., None], 3, axis=2)
    if key is None:
        return pixels
    return lay_over(pixels, np.where(values == key, 0, 255).astype(np.uint8), background)


def _transparent_colour(image: Image.Image) -> Any:
    """Return the colour that stands for transparent, by the levels of the loaded picture.

    Pillow scales shallow greys up and cuts colours of 16 bits to their higher byte when it loads
    them, but leaves this colour as the file has it.
    """
    key = image.info.get("transparency")
    if key is None or isinstance(key, bytes) or image.mode not in (*_KEYED, "I", "I;16"):
        return None
    tiles = getattr(image, "tile", ())
    stored = tiles[0][3] if tiles else ""
    if isinstance(key, tuple):
        deep = stored == "RGB;16B" or max(key) > 255
        return tuple(value >> 8 for value in key) if deep else key
    return key * {"L;2": 85, "L;4": 17}.get(stored, 1) if isinstance(stored, str) else key


def _upright(image: Image.Image, name: str, file: str) -> Image.Image:
    """Turn a picture as its EXIF data say.

    Not by Pillow's own function, which also writes the data anew and fails where it can not.
    """
    from PIL import Image

    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception as error:  # data that cannot be read raise anything
        what = file or repr(image)
        logger.warning("%s: %s: taken as stored, unreadable EXIF data (%s)", name, what, error)
        return image
    way = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation)
    return image if way is None else image.transpose(way)


def _damaged(name: str, file: str | os.PathLike[str], error: Exception) -> OSError:
    # Pillow's own words for what it does not know name an object of Python.
    unknown = type(error).__name__ == "UnidentifiedImageError"
    what = "no kind of picture that Pillow knows" if unknown else error
    return OSError(f"{name}: expected a whole picture, got {os.fspath(file)}: {what}")
