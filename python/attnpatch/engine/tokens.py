# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What the tokens of an attention layer are: spans of text, image, references and padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

__all__ = [
    "IMAGE",
    "PADDING",
    "REFERENCE",
    "TEXT",
    "Part",
    "Span",
    "Tokens",
    "image_tokens",
    "joined",
    "text_tokens",
]

TEXT, IMAGE, REFERENCE, PADDING = "text", "image", "reference", "padding"
"""Names of spans. A patch names the spans that it wants; it never asks for a model."""

Part = tuple[str, int, tuple[int, int] | None]
"""The name of neighbouring tokens, how many there are, and their rows and columns."""


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring tokens of one meaning.

    Parameters
    ----------
    name : str
        "text", "image", "reference" or "padding".
    start : int
        The first token.
    stop : int or None
        The token after the last; None: to the end.
    grid : tuple of int or None
        Rows and columns of an image's tokens.
    index : int
        Which of several spans of one name.
    rows : tuple of int
        For each row of the batch how many of these tokens are its own, from the first, where rows
        differ: the others are padding. Empty: all are.
    repeats : tuple of int
        For each row how often its text stands there, one after the other, where a host repeats it.
        Empty: once.
    """

    name: str
    start: int = 0
    stop: int | None = None
    grid: tuple[int, int] | None = None
    index: int = 0
    rows: tuple[int, ...] = ()
    repeats: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Tokens:
    """The spans of a layer's queries, or of its keys, in order."""

    spans: tuple[Span, ...]

    def find(self, name: str, index: int = 0) -> Span | None:
        """Return the span of a name; None: there is none."""
        for span in self.spans:
            if span.name == name and span.index == index:
                return span
        return None

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each span."""
        return tuple(span.name for span in self.spans)

    @property
    def count(self) -> int | None:
        """How many there are; None: not known."""
        return self.spans[-1].stop

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the image's tokens.

        Raises
        ------
        ValueError
            Where there is no image among them.
        """
        image = self.find(IMAGE)
        if image is None or image.grid is None:
            raise ValueError(f"tokens: expected an image among them, got {self.names}")
        return image.grid


@lru_cache(maxsize=256)
def image_tokens(grid: tuple[int, int]) -> Tokens:
    """Return the tokens of an image alone."""
    return Tokens((Span(IMAGE, 0, grid[0] * grid[1], grid),))


@lru_cache(maxsize=16)
def text_tokens(repeats: tuple[int, ...] = ()) -> Tokens:
    """Return the tokens of a text alone, of any length; `repeats` as of ``Span``."""
    return Tokens((Span(TEXT, repeats=repeats),))


def joined(parts: Sequence[Part]) -> Tokens:
    """Return the tokens of a sequence of parts; those of one name are counted."""
    spans: list[Span] = []
    start = 0
    for name, count, grid in parts:
        if count:
            index = sum(span.name == name for span in spans)
            spans.append(Span(name, start, start + count, grid, index))
        start += count
    return Tokens(tuple(spans))
