# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Rotary positions where a longer text moves the image away from tokens that stay.

Where the image's positions follow the text's, padding in front of the text moves both along the
first axis of positions, and nothing else: references before them and padding at a place of its own
stay behind. Attention sees differences of positions alone. Turning queries and keys of what stayed
by as much gives all tokens the differences that they had.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["LeftBehind"]

Parts = tuple[tuple[int, int], ...]
"""Tokens: for each part the first, and the one after the last."""


class LeftBehind:
    """The tokens of one call that stayed, in each attention that comes by.

    Parameters
    ----------
    distance
        How far the others went.
    theta, size
        Of the first axis of rotary positions: pair i of its `size` channels, the first of a head,
        turns by ``theta ** (-2 * i / size)`` a position.
    first
        Attentions that come before all others, in order: their numbers of tokens, and which stayed.
    others
        The same of those that may come by after them, as often as they like.
    """

    def __init__(
        self,
        distance: int,
        *,
        theta: float,
        size: int,
        first: Iterable[tuple[int, Parts]],
        others: Iterable[tuple[int, Parts]],
    ) -> None:
        angles = distance * theta ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)
        self._turn = angles.cos().float(), angles.sin().float()
        self._first = list(first)[::-1]
        self._others = list(others)

    def follow(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries and keys (rows, heads, tokens, size) with the tokens that stayed moved."""
        count = q.shape[2]
        if count != k.shape[2]:
            return q, k
        if self._first and self._first[-1][0] == count:
            parts = self._first.pop()[1]
        else:
            # Compared, not looked up: in a graph the count may be a symbol.
            parts = next((these for tokens, these in self._others if tokens == count), ())
        return (self._moved(q, parts), self._moved(k, parts)) if parts else (q, k)

    def _moved(self, x: Tensor, parts: Parts) -> Tensor:
        cos, sin = (turn.to(x.device) for turn in self._turn)
        size = 2 * len(cos)
        result = x.clone()
        for start, stop in parts:
            even, odd = x[:, :, start:stop, :size].float().unflatten(-1, (-1, 2)).unbind(-1)
            turned = torch.stack([cos * even - sin * odd, sin * even + cos * odd], dim=-1)
            result[:, :, start:stop, :size] = turned.flatten(-2).to(x.dtype)
        return result
