# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What the node pack of Slothful and Near-sighted attention computes where it errs.

Used with ``compat="comfyui_slothful_attention"`` alone: for old workflows, and to compare.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from attnpatch._core import token_grid
from attnpatch.engine.edits import Inner
from attnpatch.engine.heads import join_heads, split_heads
from attnpatch.patches.token_reduction.stage import Grid

if TYPE_CHECKING:
    from attnpatch.patches.token_reduction.patch import CallKey, Place

__all__ = [
    "PoolPlan",
    "TilePlan",
    "guess_grid",
    "near_sighted_plan",
    "offset",
    "pool_plan",
    "sample",
    "tiles",
]

Pool = Callable[[Tensor, Tensor, Grid], tuple[Tensor, Tensor]]
"""Keys' and values' inputs (batch, tokens, channels) on a grid to fewer of them."""


def guess_grid(latent: Grid, true: Grid) -> Grid:
    """Guess the grid from the count of its tokens: wrong for some sizes.

    Where the guess does not hold all tokens the reference fails; there the true grid is returned.
    """
    tokens = true[0] * true[1]
    width = round(latent[1] * math.sqrt(tokens / (latent[0] * latent[1])))
    height = tokens // width if width else 0
    return (height, width) if height * width == tokens else true


def tiles(grid: Grid, size: int) -> Grid:
    """Give rows and columns of tiles."""
    return math.ceil(grid[0] / size), math.ceil(grid[1] / size)


def pool_plan(stride: float, mode: str, blends: tuple[float, float], grid: Grid) -> PoolPlan | None:
    """Give the plan of pooling alone; None: the stride asks for none."""
    return PoolPlan(grid, pool(stride, stride, mode, blends)) if stride > 1 else None


def near_sighted_plan(
    grid: Grid,
    tiles: Grid,
    stride: float,
    global_ratio: float,
    mode: str,
    blends: tuple[float, float],
) -> TilePlan:
    """Give the plan of Near-sighted Attention: padded below and right."""
    shared = None
    if global_ratio > 0:
        far = max(1.0, stride) * (tiles[0] * tiles[1]) / global_ratio
        shared = pool(stride, far, mode, blends)
    own = pool(stride, stride, mode, blends) if stride > 1 else None
    return TilePlan(grid, tiles, (0, 0), own, shared)


def sample(tiles: int, global_ratio: float) -> Pool | None:
    """Give how Near-sighted Tile picks the shared tokens: columns' stride for rows and back."""
    if global_ratio <= 0:
        return None
    down = math.ceil(math.sqrt(tiles / global_ratio))
    across = math.ceil(tiles / global_ratio / down)

    def pick(k_input: Tensor, v_input: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        keys, values = (
            x.unflatten(1, grid)[:, ::across, ::down].flatten(1, 2) for x in (k_input, v_input)
        )
        return keys, values

    return pick


def pool(size: float, stride: float, mode: str, blends: tuple[float, float]) -> Pool:
    """Give the reference's pooling: only windows that fit, and blends of 1 and 1 take no window."""

    def extent(tokens: float, height: int, width: int) -> Grid:
        if mode.startswith("1D"):
            return _clip(math.ceil(tokens), height), 1
        rows = _clip(math.ceil(math.sqrt(tokens)), height)
        return rows, _clip(math.ceil(tokens / rows), width)

    def pooled(x: Tensor, blend: float, height: int, width: int) -> Tensor:
        image = x.unflatten(1, (height, width)).permute(0, 3, 1, 2)
        step, window = extent(stride, height, width), extent(size, height, width)
        picked = image[:, :, :: step[0], :: step[1]]
        if blends != (1.0, 1.0):
            kernel = F.avg_pool2d if mode.endswith("AVG") else F.max_pool2d
            far = kernel(image, window, step)
            picked = torch.lerp(picked[:, :, : far.shape[2], : far.shape[3]], far, blend)
        return picked.flatten(2).transpose(1, 2)

    def pool_both(k_input: Tensor, v_input: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        height, width = (grid[0] * grid[1], 1) if mode.startswith("1D") else grid
        return pooled(k_input, blends[0], height, width), pooled(v_input, blends[1], height, width)

    return pool_both


def _clip(length: int, largest: int) -> int:
    return max(1, min(length, largest))


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """Keys and values from pooled tokens. See ``Plan``."""

    grid: Grid
    pool: Pool

    def reduce(self, k_input: Tensor, v_input: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Plan.reduce``."""
        return self.pool(k_input, v_input, self.grid)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """See ``Plan.attend``."""
        return inner(q, k, v)


@dataclass(frozen=True, slots=True)
class TilePlan:
    """Equal tiles of a grid that is padded with zeros, which are keys as well. See ``Plan``.

    Projections of keys and values have no bias, so that zeros stay zeros.
    """

    grid: Grid
    tiles: Grid
    offset: Grid
    own: Pool | None = None
    shared: Pool | None = None

    @property
    def tile(self) -> Grid:
        """Rows and columns of a tile."""
        return math.ceil(self.grid[0] / self.tiles[0]), math.ceil(self.grid[1] / self.tiles[1])

    def reduce(self, k_input: Tensor, v_input: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Plan.reduce``: each tile's tokens, tile after tile, then the shared ones."""
        keys, values = self._cut(k_input), self._cut(v_input)
        if self.own is not None:
            keys, values = self.own(keys, values, self.tile)
        batch = k_input.shape[0]
        keys, values = (x.reshape(batch, -1, x.shape[2]) for x in (keys, values))
        if self.shared is not None:
            far = self.shared(k_input, v_input, self.grid)
            keys, values = torch.cat([keys, far[0]], dim=1), torch.cat([values, far[1]], dim=1)
        return keys, values

    def attend(self, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """See ``Plan.attend``."""
        own, shared = self._counts()
        if k.shape[2] != own + shared or k.shape[0] != q.shape[0]:
            return inner(q, k, v)  # another patch has changed the keys
        count, heads = self.tiles[0] * self.tiles[1], q.shape[1]

        def with_shared(x: Tensor) -> Tensor:
            x = join_heads(x)
            near = x[:, :own].unflatten(1, (count, -1))
            far = x[:, None, own:].expand(-1, count, -1, -1)
            return split_heads(torch.cat([near, far], dim=2).flatten(0, 1), heads)

        queries = split_heads(self._cut(join_heads(q)), heads)
        out = join_heads(inner(queries, with_shared(k), with_shared(v)))
        out = out.unflatten(0, (-1, *self.tiles)).unflatten(3, self.tile).transpose(2, 3)
        top, left = self.offset
        out = out.flatten(3, 4).flatten(1, 2)
        out = out[:, top : top + self.grid[0], left : left + self.grid[1]].flatten(1, 2)
        return split_heads(out, heads)

    def _cut(self, x: Tensor) -> Tensor:
        """Pad and cut: (batch, tokens, channels) -> (batch · tiles, tokens of a tile, channels)."""
        beyond = [t * n - s for t, n, s in zip(self.tile, self.tiles, self.grid, strict=True)]
        (top, left), (down, across) = self.offset, beyond
        x = F.pad(x.unflatten(1, self.grid), (0, 0, left, across - left, top, down - top))
        x = x.unflatten(2, (self.tiles[1], -1)).unflatten(1, (self.tiles[0], -1))
        return x.transpose(2, 3).flatten(3, 4).flatten(0, 2)

    def _counts(self) -> tuple[int, int]:
        """How many own and shared keys there are."""
        probe = torch.empty(1, self.grid[0] * self.grid[1], 1, device="cpu")
        keys, _ = self.reduce(probe, probe)
        shared = 0 if self.shared is None else self.shared(probe, probe, self.grid)[0].shape[1]
        return keys.shape[1] - shared, shared


def offset(place: Place, call_key: CallKey, tiling_max_depth: int, tile_size: int) -> Grid:
    """Replay what Near-sighted Tile draws in a call up to a layer: where its padding begins."""
    random = Random(int(call_key.timestep))
    drawn = (0, 0)
    for depth, level in (*place.before, (place.depth, place.layer.level)):
        if depth > 2 ** (tiling_max_depth - 1):
            continue
        size = guess_grid(call_key.latent, token_grid(*call_key.latent, level))
        counts = tiles(size, tile_size)
        if counts == (1, 1):
            continue
        beyond = [math.ceil(s / n) * n - s for s, n in zip(size, counts, strict=True)]
        top, left = (random.randrange(length) if length > 0 else 0 for length in beyond)
        drawn = top, left
    return drawn
