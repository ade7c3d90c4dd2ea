# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures side by side, each with a few words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attnpatch.display.card import card, count, picture
from attnpatch.display.markup import Markup, tag
from attnpatch.display.png import shrink
from attnpatch.pictures import Pictures, read_pictures
from attnpatch.shown import Shown

__all__ = ["SideBySide", "html"]


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
        Of each on the page, in pixels. Small pictures are enlarged without smoothing.
    title : str
        Of all.

    Raises
    ------
    ValueError
        Where captions and pictures differ in number, or the height is no number of pixels.
    """

    pictures: Pictures
    captions: Sequence[str] = ()
    height: int = 96
    title: str = "Pictures"

    _shown_by = "side_by_side"

    def __post_init__(self) -> None:
        if self.height < 1:
            raise ValueError(f"height: expected at least 1, got {self.height}")
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
    figures = [
        picture(
            shrink(pixels, 2 * shown.height * max(pixels.shape[:2]) // pixels.shape[0]),
            caption or f"picture {index}",
            height=shown.height,
            caption=caption or None,
        )
        for index, (pixels, caption) in enumerate(zip(pictures, captions, strict=True))
    ]
    row = tag("div", *figures, class_="ap-row", style="margin-top:.6rem")
    return card(shown.title, count(len(figures), "picture"), row, plain=repr(shown))
