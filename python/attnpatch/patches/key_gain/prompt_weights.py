# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Prompts with weights in them: "a (red:1.4) hat, (blur:-0.5)"."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

__all__ = ["Weighted", "WeightedPrompt", "read_weights"]

_BARE = 1.1
"""The weight of what stands in parentheses alone, as other programs have it."""
_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*\)")


class Weighted(NamedTuple):
    """A part of a prompt that has a weight."""

    start: int
    """The first character, in the prompt without weights."""
    stop: int
    """The character after the last."""
    weight: float


class WeightedPrompt(NamedTuple):
    """A prompt that was read."""

    text: str
    """The prompt without weights and parentheses."""
    parts: tuple[Weighted, ...]
    """Those parts whose weight is not 1, in order; they do not overlap."""


def read_weights(prompt: str) -> WeightedPrompt:
    r"""Read the weights of a prompt.

    Parameters
    ----------
    prompt : str
        "(words:1.4)" has the weight 1.4, "(words)" 1.1; weights of parentheses in parentheses are
        multiplied. A backslash before a parenthesis makes it a character of the prompt.

    Returns
    -------
    WeightedPrompt
        The prompt without them, and the weights of its parts.

    Raises
    ------
    TypeError
        If it is no text.
    ValueError
        For a parenthesis without its other one, and weights that are not finite.

    Examples
    --------
    >>> read_weights("a (red:1.4) hat")
    WeightedPrompt(text='a red hat', parts=(Weighted(start=2, stop=5, weight=1.4),))
    """
    if not isinstance(prompt, str):
        raise TypeError(f"prompt: expected a text, got {prompt!r}")
    characters: list[str] = []
    weights: list[float] = []  # of each character
    opened: list[int] = []  # where the text of each open parenthesis begins
    position = 0
    while position < len(prompt):
        character = prompt[position]
        if character == "\\" and prompt[position + 1 : position + 2] in ("(", ")", "\\"):
            position += 1
            character = prompt[position]
        elif character == "(":
            opened.append(len(characters))
            position += 1
            continue
        elif character in ":)" and opened:
            number = _NUMBER.match(prompt, position + 1) if character == ":" else None
            if character == ")" or number is not None:
                weight = _BARE if number is None else float(number[1])
                if not math.isfinite(weight):
                    raise ValueError(f"prompt: expected finite weights, got {weight}")
                first = opened.pop()
                weights[first:] = [weight * before for before in weights[first:]]
                position = position + 1 if number is None else number.end()
                continue
        elif character == ")":
            raise ValueError(
                f"prompt: expected '(' before ')' at character {position}, got {prompt!r}"
            )
        characters.append(character)
        weights.append(1.0)
        position += 1
    if opened:
        raise ValueError(f"prompt: expected ')' for each '(', got {prompt!r}")
    return WeightedPrompt("".join(characters), tuple(_parts(weights)))


def _parts(weights: list[float]) -> list[Weighted]:
    parts, start = [], 0
    for stop in range(1, len(weights) + 1):
        if stop == len(weights) or weights[stop] != weights[start]:
            if weights[start] != 1.0:
                parts.append(Weighted(start, stop, weights[start]))
            start = stop
    return parts
