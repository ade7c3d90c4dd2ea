# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The token grid (rows, columns) of a layer, for hosts that hand over the latent's shape."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from attnpatch.patches import Layer, token_grid


def grid_of(layer: Layer, tokens: int, options: Mapping[str, Any]) -> tuple[int, int]:
    """Return the token grid of a layer.

    Parameters
    ----------
    layer
        Its level says how often the grid was halved.
    tokens
        How many the layer has.
    options
        The host's ``extra_options``: ``original_shape`` (B, C, H, W) is the latent's, of the part
        that is shown; newer hosts give the features' own as ``activations_shape``.

    Returns
    -------
    tuple of int
        Of ``tokens`` tokens. Where no such grid can be told for certain, the one to expect: then
        what needs the grid fails or stays away, and all else works.
    """
    activations = options.get("activations_shape")
    if activations is not None and activations[-2] * activations[-1] == tokens:
        return activations[-2], activations[-1]
    height, width = options["original_shape"][-2:]
    return _grid_of(height, width, layer.level, tokens)


@lru_cache(maxsize=256)
def _grid_of(height: int, width: int, level: int, tokens: int) -> tuple[int, int]:
    expected = token_grid(height, width, level)
    if expected[0] * expected[1] == tokens:
        return expected
    return _resized(expected, tokens) or expected


def _resized(grid: tuple[int, int], tokens: int) -> tuple[int, int] | None:
    """Return what a grid became when something scaled both sides alike; None: can not be told.

    Such patches round each side, and the levels below round up: a side may be off by one or so.
    """
    scale = math.sqrt(tokens / (grid[0] * grid[1]))

    def error(candidate: tuple[int, int]) -> float:
        return max(abs(a - scale * b) for a, b in zip(candidate, grid, strict=True))

    candidates = [(rows, tokens // rows) for rows in range(1, tokens + 1) if tokens % rows == 0]
    found = sorted((error(candidate), candidate) for candidate in candidates)
    plausible = [candidate for distance, candidate in found if distance <= 1.5]
    if not plausible or (len(found) > 1 and math.isclose(found[0][0], found[1][0])):
        return None
    return plausible[0]
