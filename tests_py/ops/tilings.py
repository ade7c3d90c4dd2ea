# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Tilings of all kinds, and their tiles one by one."""

import numpy as np
from hypothesis import strategies as st

from attnpatch.ops import Tiling


@st.composite
def tilings(draw, largest=13):
    """Any tiling of a small grid; tiles may be larger than the grid."""
    grid = draw(st.tuples(st.integers(1, largest), st.integers(1, largest)))
    tile = draw(st.tuples(st.integers(1, largest), st.integers(1, largest)))
    offset = tuple(draw(st.integers(0, size - 1)) for size in tile)
    return Tiling(grid, tile, offset)


def tiles_of(tiling):
    """Every tile's tokens as a matrix of their places in the grid's order, tile after tile."""
    height, width = tiling.grid
    places = np.arange(height * width).reshape(height, width)

    def sections(length, size, offset):
        return np.flatnonzero((np.arange(1, length) + offset) % size == 0) + 1

    return [
        part
        for line in np.split(places, sections(height, tiling.tile[0], tiling.offset[0]))
        for part in np.split(line, sections(width, tiling.tile[1], tiling.offset[1]), axis=1)
    ]
