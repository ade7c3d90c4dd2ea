# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Where a model looks: recorded attention over its picture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from attnpatch.display.card import card, count, more, part, picture
from attnpatch.display.markup import Markup, tag
from attnpatch.display.png import shrink
from attnpatch.patches import show_attention
from attnpatch.patches.guidance.heat_map import COLOURS
from attnpatch.pictures import Pictures, read_pictures
from attnpatch.shown import Shown

__all__ = ["AttentionOver", "figures"]

_SIDE = 384
_SHOWN = 200  # pixels on the page
_PICTURES = 8
_LARGEST = 1e6  # infinite attention is drawn as this


@dataclass(frozen=True, eq=False)
class AttentionOver(Shown):
    """Recorded attention over the pictures that were made: a display for notebooks.

    Parameters
    ----------
    attention : Tensor
        What :func:`attnpatch.recorded_attention` gives, (pictures, h, w): 1 is a token's share.
    pictures : picture, or list of pictures, or None
        As many as there are maps; None: the maps alone.
    threshold : float
        What self-attention guidance blurs: where attention is above it.

    Raises
    ------
    TypeError
        For what is no tensor.
    ValueError
        For a threshold that is no finite number; for numbers that do not fit, or what is no map,
        when it is shown.
    """

    attention: Tensor
    pictures: Pictures | None = None
    threshold: float = 1.0

    _shown_by = "attention"

    def __post_init__(self) -> None:
        """Check what needs no picture."""
        given: object = self.attention
        if not isinstance(given, Tensor):
            none = ": nothing was recorded" if given is None else ""
            raise TypeError(f"attention: expected a tensor, got {given!r:.60}{none}")
        if not isinstance(self.threshold, int | float) or not math.isfinite(self.threshold):
            raise ValueError(f"threshold: expected a finite number, got {self.threshold!r}")


def html(shown: AttentionOver) -> Markup:
    """Show attention over pictures."""
    maps = shown.attention.detach().float().cpu()
    maps = maps if maps.dim() == 3 else maps[None]
    if maps.dim() != 3 or not maps.numel():
        raise ValueError(
            f"attention: expected (pictures, h, w), got {tuple(shown.attention.shape)}"
        )
    title = f"{count(len(maps), 'picture')}, {maps.shape[-2]} × {maps.shape[-1]} tokens"
    parts = figures(maps, shown.pictures, shown.threshold)
    return card("Recorded attention", title, *parts, plain=repr(shown))


def figures(maps: Tensor, pictures: Pictures | None, threshold: float = 1.0) -> list[Markup]:
    """Give a part for each picture, heat map beside what is above the threshold, and a scale."""
    below = [None] * len(maps) if pictures is None else read_pictures(pictures, "pictures")
    if len(below) != len(maps):
        raise ValueError(f"pictures: expected {len(maps)}, one a map, got {len(below)}")
    found = []
    for index, (one, under) in enumerate(zip(maps[:_PICTURES], below, strict=False)):
        enlarged = None if under is None else _large(under)
        heat = np.asarray(show_attention(one, picture=enlarged, size=_SIDE))
        mask = np.asarray(show_attention(one, picture=enlarged, size=_SIDE, threshold=threshold))
        one = one.nan_to_num(0.0, _LARGEST, 0.0)
        row, column = divmod(int(one.argmax()), one.shape[-1])
        text = f"{float(one.max()):.1f} times its share in row {row}, column {column}"
        share = f"{float((one > threshold).float().mean()):.0%} above {threshold:g}"
        row_of = [
            picture(heat, f"attention: {text}", height=_SHOWN, caption=f"attention: {text}"),
            picture(mask, share, height=_SHOWN, caption=f"what guidance blurs: {share}"),
        ]
        if enlarged is not None:
            row_of.insert(0, picture(enlarged, "the picture", height=_SHOWN, caption="picture"))
        name = tag("div", f"picture {index}", class_="ap-soft") if len(maps) > 1 else None
        found.append(part(tag("div", name, tag("div", *row_of, class_="ap-row"))))
    if len(maps) > _PICTURES:
        found.append(part(more(len(maps) - _PICTURES)))
    return [*found, _scale()]


def _large(pixels: np.ndarray) -> np.ndarray:
    """Give a picture in a size to look at: whole pixels enlarged, or areas joined."""
    factor = max(1, _SIDE // max(pixels.shape[:2]))
    return shrink(pixels.repeat(factor, 0).repeat(factor, 1), _SIDE)


def _scale() -> Markup:
    """Draw which colour says what."""
    stops = ",".join(
        "rgb({:.0f},{:.0f},{:.0f})".format(*(255 * channel for channel in one))
        for one in COLOURS.tolist()
    )
    bar = tag(
        "div",
        style=f"width:14rem;max-width:100%;height:.7rem;border-radius:.2rem;"
        f"background:linear-gradient(90deg,{stops})",
    )
    words = tag(
        "div",
        *(tag("span", word) for word in ("none", "its share", "twice and more")),
        class_="ap-soft",
        style="display:flex;justify-content:space-between;width:14rem;max-width:100%",
    )
    return tag("div", bar, words, style="margin-top:.6rem")
