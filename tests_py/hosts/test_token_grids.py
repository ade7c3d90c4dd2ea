# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Token grids: exact for every latent, certain or not told where features were resized."""

from __future__ import annotations

import pytest
from comfyui_oracle import grid_at
from hypothesis import given
from hypothesis import strategies as st

from attnpatch.engine import layer_table
from attnpatch.hosts.token_grids import grid_of

LAYERS = {layer.level: layer for layer in layer_table("sd1")}
SIDES = range(64, 257)  # latents of pictures of 512 to 2048 pixels, in steps of 8


@pytest.mark.parametrize("level", sorted(LAYERS))
def test_every_size_of_the_lattice(level):
    for height in SIDES:
        for width in range(64, 257, 1 if height % 16 == 1 else 7):
            grid = grid_at((height, width), level)
            latent = [2, 4, height, width]
            assert grid_of(LAYERS[level], grid[0] * grid[1], latent) == grid


@given(
    latent=st.tuples(st.integers(16, 160), st.integers(16, 160)),
    level=st.sampled_from(sorted(LAYERS)),
    factor=st.floats(1.2, 4.0),
    at=st.integers(0, 3),
)
def test_resized_features_are_told_or_nothing_is(latent, level, factor, at):
    """Deep shrink rounds both sides of the features at some level; the levels below round up."""
    at = min(at, level)
    shrunk = tuple(max(1, round(side / factor)) for side in grid_at(latent, at))
    grid = grid_at(shrunk, level - at)
    tokens = grid[0] * grid[1]
    found = grid_of(LAYERS[level], tokens, latent)
    assert found == grid or found == grid_at(latent, level) != grid, "a mask would be shifted"
    for guess in (True, False):
        assert grid_of(LAYERS[level], tokens, latent, [1, 8, *grid], guess=guess) == grid


def test_most_resized_features_are_told():
    told = 0
    for height in range(32, 160, 3):
        grid = round(height / 1.7), round(1.5 * height / 1.7)
        latent = [1, 4, height, 3 * height // 2]
        told += grid_of(LAYERS[0], grid[0] * grid[1], latent) == grid
    assert told >= 40  # of 43


def test_merged_tokens_are_no_resized_features():
    """Nothing is guessed where the host tells the features' shape, or others may merge tokens."""
    latent = [1, 4, 24, 16]
    merged = 12 * 8  # every fourth token, or a grid of half the size
    assert grid_of(LAYERS[0], merged, latent) == (12, 8)
    assert grid_of(LAYERS[0], merged, latent, [1, 8, 24, 16]) == (24, 16)
    assert grid_of(LAYERS[0], merged, latent, guess=False) == (24, 16)


def test_a_stale_shape_is_not_believed():
    assert grid_of(LAYERS[0], 64 * 96, [1, 4, 64, 96], [1, 8, 32, 48]) == (64, 96)


def test_what_can_not_be_told():
    assert grid_of(LAYERS[0], 4099, (64, 64)) == (64, 64)  # a prime number of tokens
    assert grid_of(LAYERS[0], 72, (64, 64)) == (64, 64)  # 8 × 9 or 9 × 8
