# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Tilings: their tiles, and cutting and joining by groups of equal ones."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tilings import tiles_of, tilings

from attnpatch.ops import Tiling
from attnpatch.ops.tiling import join_grid, join_pooled, split_grid, split_pooled

STRIDES = st.one_of(
    st.tuples(st.integers(1, 9)), st.tuples(st.integers(1, 5), st.integers(1, 5)), st.just(())
)


@given(tilings())
def test_splitting_and_joining_is_the_identity(tiling):
    tokens = torch.arange(2 * tiling.grid[0] * tiling.grid[1]).view(2, -1, 1).expand(-1, -1, 3)
    assert torch.equal(join_grid(split_grid(tokens, tiling), tiling), tokens)


@given(tilings())
def test_splitting_finds_every_tile(tiling):
    tokens = torch.arange(tiling.grid[0] * tiling.grid[1]).view(1, -1)
    expected = {tuple(tile.flatten().tolist()) for tile in tiles_of(tiling)}
    groups = [part[0] for line in split_grid(tokens, tiling) for part in line]
    found = {tuple(tile.tolist()) for group in groups for line in group for tile in line}
    assert found == expected
    assert tiling.tiles[0] * tiling.tiles[1] == len(expected)
    assert len(groups) <= 9


@given(tilings(), STRIDES)
def test_pooled_tokens_lie_tile_after_tile(tiling, stride):
    count = tiling.pooled(stride)
    tokens = torch.arange(2 * count).view(2, count, 1)
    parts = split_pooled(tokens, tiling, stride)
    assert torch.equal(join_pooled(parts), tokens)
    for line in parts:
        for part in line:
            inside = part.diff(dim=3)
            assert torch.equal(inside, torch.ones_like(inside))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((0, 4), (2, 2)), r"grid: expected two numbers of at least 1, got \(0, 4\)"),
        (((4, 4), (2, 0)), r"tile: expected two numbers of at least 1, got \(2, 0\)"),
        (((4, 4), (2,)), r"tile: expected two numbers of at least 1, got \(2,\)"),
        (((4, 4), (2, 2), (0, -1)), r"offset: expected two numbers of at least 0, got \(0, -1\)"),
        (((4, 4), (2, 2), (0, 2)), r"offset: expected less than the tile \(2, 2\), got \(0, 2\)"),
    ],
)
def test_errors_name_the_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        Tiling(*arguments)
