# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What all displays are made of: a card with a head, parts with facts, and pictures."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from attnpatch.display.markup import Markup, join, tag
from attnpatch.display.png import data_uri
from attnpatch.display.style import STYLE, colour

__all__ = ["badge", "card", "count", "facts", "folded", "more", "part", "picture", "short", "size"]

_TEXT = 20_000  # characters of a plain text


def card(name: str, summary: object, *parts: object, plain: str) -> Markup:
    """Make a whole display.

    Parameters
    ----------
    name : str
        What it is.
    summary
        A line beside the name.
    *parts
        What follows.
    plain : str
        The text that stands for it where a page takes style sheets away.
    """
    head = tag(
        "div", tag("span", name, class_="ap-name"), tag("span", summary, class_="ap-soft"),
        class_="ap-head",
    )  # fmt: skip
    return tag(
        "div",
        STYLE,
        tag("pre", short(plain, _TEXT), class_="attnpatch-plain"),
        tag("div", head, *parts, class_="attnpatch", style="display:none"),
    )


def part(*children: object) -> Markup:
    """Make a part of a card, under a line."""
    return tag("div", *children, class_="ap-part")


def badge(index: int) -> Markup:
    """Give a patch's number on its colour."""
    return tag("span", index, class_="ap-badge", style=f"background:{colour(index)}")


def facts(pairs: Iterable[tuple[str, object]]) -> Markup | None:
    """List names and values; None where there are none."""
    rows = [join(tag("dt", name), tag("dd", value)) for name, value in pairs]
    return tag("dl", *rows, class_="ap-facts") if rows else None


def folded(title: str, text: str) -> Markup:
    """Give a text that opens on a click, without a script."""
    return tag("details", tag("summary", title), tag("pre", short(text, _TEXT)))


def picture(
    pixels: npt.NDArray[np.uint8], text: str, *, height: int, caption: object = None
) -> Markup:
    """Show pixels (H, W) or (H, W, 3), uint8, at a height on the page, with a text for it."""
    scale = height / pixels.shape[0]
    image = tag(
        "img",
        src=data_uri(pixels),
        alt=text,
        title=text,
        width=max(1, round(pixels.shape[1] * scale)),
        height=height,
        class_="ap-pixels" if scale > 1 else None,
    )
    return tag("figure", image, None if caption is None else tag("figcaption", caption))


def more(number: int) -> Markup:
    """Say that there are others, which are not shown."""
    return tag("span", f"and {number} more", class_="ap-soft")


def short(text: str, longest: int = 120) -> str:
    """Cut a text off where it is too long, with a sign of that."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def size(nbytes: int) -> str:
    """Write a number of bytes: "96 bytes", "12.3 kB", "11.0 MB"."""
    if nbytes < 1000:
        return count(nbytes, "byte")
    power, unit = (1e6, "MB") if nbytes >= 1e6 else (1e3, "kB")
    return f"{nbytes / power:.1f} {unit}"


def count(number: int, noun: str) -> str:
    """Write a number with its noun: "1 layer", "2 layers"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
