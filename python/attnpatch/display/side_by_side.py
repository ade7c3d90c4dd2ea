# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures side by side, each with a few words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attnpatch.display.card import card, count, more, picture
from attnpatch.display.markup import Markup, tag
from attnpatch.display.png import shrink
from attnpatch.engine.weights import whole_number
from attnpatch.pictures import Pictures, read_pictures
from attnpatch.shown import Shown

__all__ = ["SideBySide", "html"]

_PICTURES = 64
_SIDE = 1024


@dataclass(frozen=True, eq=False)
class SideBySide(Shown):
    """Pictures in a row that wraps: a display for notebooks.

    Parameters
    ----------
    pictures : picture, or list of pictures
        Files, pictures of Pillow, arrays or tensors.
    captions : sequence of str
        One for each; none: no captions.
    height : int
        Of each on the page, in pixels. Small pictures are enlarged without smoothing, large ones
        are made smaller.
    title : str
        Of all.

    Raises
    ------
    TypeError, ValueError
        Where captions and pictures differ in number, or the height is no number of pixels.
    """

    pictures: Pictures
    captions: Sequence[str] = ()
    height: int = 96
    title: str = "Pictures"

    _shown_by = "side_by_side"

    def __post_init__(self) -> None:
        object.__setattr__(self, "height", whole_number("height", self.height, 1))
        pictures = tuple(read_pictures(self.pictures, "pictures"))
        if self.captions and len(self.captions) != len(pictures):
            raise ValueError(
                f"captions: expected {len(pictures)}, one a picture, got {len(self.captions)}"
            )
        object.__setattr__(self, "pictures", pictures)
        object.__setattr__(self, "captions", tuple(self.captions))

    def __repr__(self) -> str:
        pictures = read_pictures(self.pictures, "pictures")
        return f"SideBySide({count(len(pictures), 'picture')}, {self.title!r})"


def html(shown: SideBySide) -> Markup:
    """Show pictures side by side."""
    pictures = read_pictures(shown.pictures, "pictures")
    captions = shown.captions or [""] * len(pictures)
    # Twice as sharp as they are tall, for screens with small pixels; and never a whole photograph.
    figures = [
        picture(
            shrink(pixels, min(_SIDE, 2 * shown.height * max(pixels.shape[:2]) // pixels.shape[0])),
            caption or f"picture {index}",
            height=shown.height,
            caption=caption or None,
        )
        for index, (pixels, caption) in enumerate(zip(pictures[:_PICTURES], captions, strict=False))
    ]
    if len(pictures) > _PICTURES:
        figures.append(more(len(pictures) - _PICTURES))
    row = tag("div", *figures, class_="ap-row", style="margin-top:.6rem")
    return card(shown.title, count(len(pictures), "picture"), row, plain=repr(shown))
