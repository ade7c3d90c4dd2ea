# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A font for any text: Pillow's own, which has English letters alone, or one of the system."""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache

from PIL import ImageFont
from PIL.ImageFont import FreeTypeFont
from PIL.ImageFont import ImageFont as BitmapFont

__all__ = ["font_for"]

_SYSTEM = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "segoeui.ttf"),
    *("arial.ttf", "Arial Unicode.ttf", "NotoSansCJK-Regular.ttc", "wqy-zenhei.ttc", "msyh.ttc"),
    *("meiryo.ttc", "malgun.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc"),
)
_NO_LETTER = "\U0010ffff"


@lru_cache(maxsize=256)
def font_for(text: str, size: int) -> FreeTypeFont | BitmapFont:
    """Return a font that has all letters of a text; where there is none, Pillow's own.

    Parameters
    ----------
    text : str
    size : int
        In pixels.

    Returns
    -------
    PIL.ImageFont.FreeTypeFont or PIL.ImageFont.ImageFont
    """
    own = ImageFont.load_default(size)
    if _has_letters(own, text):
        return own
    for name in _SYSTEM:
        with suppress(OSError):
            font = ImageFont.truetype(name, size)
            if _has_letters(font, text):
                return font
    return own


def _has_letters(font: FreeTypeFont | BitmapFont, text: str) -> bool:
    if text.isascii():
        return True
    try:
        none = bytes(font.getmask(_NO_LETTER))
        return all(bytes(font.getmask(letter)) != none for letter in set(text) if letter > "~")
    except UnicodeEncodeError:  # of a font without any but Latin letters
        return False
