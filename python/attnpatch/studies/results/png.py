# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures as PNG files that say how they were made."""

from __future__ import annotations

import io
import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from attnpatch.studies.results.store import Store

__all__ = ["KEY", "is_whole", "open_picture", "read_metadata", "to_levels", "to_png", "versions"]

KEY = "attnpatch"
"""The text chunk of the PNG."""
_DAMAGED = (OSError, SyntaxError, ValueError)  # what Pillow says of such a file


def to_levels(picture: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return a picture (height, width, channels), 0 to 1, in 8 bits."""
    levels = np.clip(np.rint(np.asarray(picture, np.float32) * 255.0), 0, 255).astype(np.uint8)
    return levels[..., 0] if levels.shape[-1] == 1 else levels


def to_png(levels: npt.NDArray[np.uint8], metadata: dict[str, Any], **texts: str) -> bytes:
    """Return a PNG with the metadata as JSON, and other texts by their names."""
    info = PngInfo()
    info.add_itxt(KEY, json.dumps(metadata, allow_nan=False), zip=True)
    for name, text in texts.items():
        info.add_text(name, text)
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "png", pnginfo=info)
    return file.getvalue()


def open_picture(store: Store, name: str) -> Image.Image:
    """Return a picture of a store.

    Raises
    ------
    ValueError
        For a damaged file, naming it.
    """
    data = store.read(name)
    try:
        _verify(data)
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return image.copy()
    except _DAMAGED as error:
        raise ValueError(
            f"{store.path(name)}: expected a picture, got a damaged file; resume the sweep to make "
            "it again"
        ) from error


def is_whole(store: Store, name: str) -> bool:
    """Whether a picture of a store is what was written, by the checksums in it."""
    try:
        _verify(store.read(name))
    except _DAMAGED:
        return False
    return True


def _verify(data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as image:
        image.verify()


def read_metadata(file: str | os.PathLike[str] | bytes) -> dict[str, Any]:
    """Return the metadata of a picture of a sweep.

    Raises
    ------
    ValueError
        For other files.
    """
    found = None
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            image.load()
            found = json.loads(getattr(image, "text", {}).get(KEY, "null"))
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError):
        pass
    if not isinstance(found, dict):
        name = "the file" if isinstance(file, bytes) else os.fspath(file)
        raise ValueError(f"{name}: expected a PNG of a sweep, with {KEY!r} in its metadata")
    return found


def versions() -> dict[str, str]:
    """Return the versions of what makes the pictures."""
    found = {"python": platform.python_version()}
    for name in ("attnpatch", "torch", "diffusers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
