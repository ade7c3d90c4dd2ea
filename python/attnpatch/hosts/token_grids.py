# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The token grid (rows, columns) of a layer, for all hosts whose UNets may resize features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from attnpatch.engine import Layer, token_grid

_ROUNDING = (
    1.25  # tokens by which a scaled side may be off; more finds fewer, less finds wrong ones
)


def grid_of(
    layer: Layer,
    tokens: int,
    latent: Sequence[int],
    features: Sequence[int] | None = None,
    *,
    guess: bool = True,
) -> tuple[int, int]:
    """Return the token grid of a layer.

    Parameters
    ----------
    layer
        Its level says how often the grid was halved.
    tokens
        How many the layer has.
    latent
        The shape (…, H, W) of the latent, of the part that is shown.
    features
        The features' own shape (…, h, w) where the host tells it.
    guess
        Whether a host that does not tell may have resized the features: then the grid follows from
        the count. Where others may have merged tokens instead, nothing can be told from that.

    Returns
    -------
    tuple of int
        Of ``tokens`` tokens. Where no such grid can be told for certain, the one to expect: then
        what needs the grid fails or stays away, and all else works.
    """
    if features is not None and features[-2] * features[-1] == tokens:
        return features[-2], features[-1]
    height, width = latent[-2:]
    return _grid_of(height, width, layer.level, tokens, guess and features is None)


@lru_cache(maxsize=256)
def _grid_of(height: int, width: int, level: int, tokens: int, guess: bool) -> tuple[int, int]:
    expected = token_grid(height, width, level)
    if not guess or expected[0] * expected[1] == tokens:
        return expected
    return _resized(expected, tokens) or expected


def _resized(grid: tuple[int, int], tokens: int) -> tuple[int, int] | None:
    """Return what a grid became when something scaled both sides alike; None: can not be told.

    Such patches round each side, and the levels below round up: a side may be off by one or so.
    """
    scale = math.sqrt(tokens / (grid[0] * grid[1]))
    candidates = [(rows, tokens // rows) for rows in range(1, tokens + 1) if tokens % rows == 0]
    plausible = [
        candidate
        for candidate in candidates
        if max(abs(a - scale * b) for a, b in zip(candidate, grid, strict=True)) <= _ROUNDING
    ]
    return plausible[0] if len(plausible) == 1 else None
