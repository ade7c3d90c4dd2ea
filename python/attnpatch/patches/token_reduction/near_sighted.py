# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Near-sighted Tile and Near-sighted Attention: near tokens in full or pooled, far ones sampled."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from attnpatch._core import tile_offset, tile_shape
from attnpatch.ops import Tiling
from attnpatch.patches.token_reduction import slothful_pack
from attnpatch.patches.token_reduction.parameters import (
    checked,
    compat_with,
    number,
    seed_number,
    whole_number,
)
from attnpatch.patches.token_reduction.patch import PACK, CallKey, Place, TokenReduction
from attnpatch.patches.token_reduction.pooling import Pooling
from attnpatch.patches.token_reduction.slothful import SidedReduction
from attnpatch.patches.token_reduction.stage import Grid, Plan
from attnpatch.patches.token_reduction.tiling import TilePlan

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["NearSightedAttention", "NearSightedTile"]


def _max_depth() -> Any:
    text = "How deep layers are tiled: 1 only the model's own width, 2 twice that too, 3 all."
    return whole_number(2, 1, 3, 1, text)


def _tile_size(default: int, when: str) -> Any:
    return whole_number(default, 16, 64, 2, f"Rows and columns of a tile at most, in tokens{when}.")


def _global_ratio(default: float, when: str) -> Any:
    text = f"Tokens of the whole picture that each tile sees, over those of a tile{when}; 0: none."
    return number(default, 0.0, 1.0, 0.1, text)


def _too_deep(place: Place, tiling_max_depth: int) -> bool:
    return place.depth > 2 ** (tiling_max_depth - 1)


def _tiles(tiling: Tiling) -> int:
    down, across = tiling.tiles
    return down * across


def _make_tiling(grid: Grid, size: int, seed: int, call_key: CallKey, place: Place) -> Tiling:
    tile = tile_shape(grid, size)
    # Timesteps that hosts find in different ways differ in their last digits.
    offset = tile_offset(grid, tile, seed, float(round(call_key.timestep)), place.layer.index)
    return Tiling(grid, tile, offset)


@dataclass(frozen=True, kw_only=True, repr=False)
class NearSightedTile(TokenReduction):
    """Self-attention within tiles of the picture, and to a sample of the whole.

    The token grid is cut into as few tiles as keep their sides at most `tile_size`, all equal but
    where the grid ends. Where they hold more than the grid, it lies in them at an offset that is
    drawn anew at every layer and step. Tiles of one, or that gain nothing, are left alone.

    Parameters
    ----------
    tiling_max_depth
        Layers are tiled whose channels are at most 2^(tiling_max_depth − 1) times the model's: 1 to
        3; 2 by default.
    global_ratio
        How many tokens of the whole picture a tile attends to beside its own, as a part of its own:
        0 to 1; 0.5.
    tile_size
        16 to 64 tokens; 32.
    seed
        Decides on the offsets, with the timestep and the layer.
    compat
        "comfyui_slothful_attention": do as that pack does where it errs: zeros around the grid take
        part as keys, the sample swaps its strides of rows and columns, and some grids are not
        known.

    Raises
    ------
    TypeError, ValueError
        If a parameter is out of its range; the message names it.

    Notes
    -----
    Of ComfyUI's pack ``comfyui_slothful_attention`` (MIT).
    """

    type_name: ClassVar[str] = "near_sighted_tile"

    tiling_max_depth: int = _max_depth()
    global_ratio: float = _global_ratio(0.5, "")
    tile_size: int = _tile_size(32, "")
    seed: int = seed_number()
    compat: str | None = compat_with(PACK)

    @property
    def reduces_inputs(self) -> bool:
        """Whether keys and values are projected from fewer tokens; else they are reduced after."""
        return self.imitates

    def skips(self, place: Place) -> str | None:
        """Say why it never acts at a layer; None where it may act."""
        if _too_deep(place, self.tiling_max_depth):
            return f"it is at depth {place.depth}, deeper than what is tiled"
        return None

    def plan(self, place: Place, call_key: CallKey, grid: Grid) -> Plan | None:
        """See ``TokenReduction.plan``."""
        if self.imitates:
            return self._plan_as_pack(
                place, call_key, slothful_pack.guess_grid(call_key.latent, grid)
            )
        tiling = _make_tiling(grid, self.tile_size, self.seed, call_key, place)
        tiles = _tiles(tiling)
        if tiles == 1:
            return None
        plan = TilePlan(tiling, shared=_sample(tiles, self.global_ratio, "2D_AVG", grid))
        return plan if plan.pairs < (grid[0] * grid[1]) ** 2 else None

    def _plan_as_pack(self, place: Place, call_key: CallKey, grid: Grid) -> Plan | None:
        tiles = slothful_pack.tiles(grid, self.tile_size)
        if tiles == (1, 1):
            return None
        return slothful_pack.TilePlan(
            grid,
            tiles,
            slothful_pack.offset(place, call_key, self.tiling_max_depth, self.tile_size),
            shared=slothful_pack.sample(tiles[0] * tiles[1], self.global_ratio),
        )


def _sample(tiles: int, global_ratio: float, mode: str, grid: Grid) -> Pooling | None:
    """Give how the shared tokens are picked where nothing is pooled."""
    if global_ratio <= 0:
        return None
    return Pooling.of(1.0, tiles / global_ratio, mode, (0.0, 0.0), grid)


@dataclass(frozen=True, kw_only=True, repr=False)
class NearSightedAttention(SidedReduction):
    """Tiles and pooling: few, pooled tokens of one's own tile, and fewer of the whole picture.

    Tiles are those of `NearSightedTile`, pooling is that of `SlothfulAttention` (the middle block
    counts as an input block). Tile size and global ratio go from `base` to `peak` as time comes
    near `peak_time`. Where there are no tiles, tokens are pooled alone.

    Parameters
    ----------
    tiling_max_depth
        As for `NearSightedTile`; 2.
    base_tile_size, peak_tile_size
        16 to 64 tokens; 24 and 32.
    base_global_ratio, peak_global_ratio
        0 to 1; 0.2 and 0.8.
    peak_time, time_decay, in_mode, in_depth_decay, in_slothful, in_k_blend, in_v_blend, out_mode, \
out_depth_decay, out_slothful, out_k_blend, out_v_blend
        As for `SlothfulAttention`.
    seed
        As for `NearSightedTile`.
    compat
        "comfyui_slothful_attention": do as that pack does where it errs: zeros below and right of
        the grid take part as keys and in windows, SD2 is reduced as SDXL, blends of 1 and 1 do as 0
        and 0, windows that do not fit are dropped, and some grids are not known.

    Raises
    ------
    TypeError, ValueError
        If a parameter is out of its range; the message names it.

    Notes
    -----
    Of ComfyUI's pack ``comfyui_slothful_attention`` (MIT).
    """

    type_name: ClassVar[str] = "near_sighted_attention"

    tiling_max_depth: int = _max_depth()
    base_tile_size: int = _tile_size(24, ", away from the peak time")
    peak_tile_size: int = _tile_size(32, ", at the peak time")
    base_global_ratio: float = _global_ratio(0.2, ", away from the peak time")
    peak_global_ratio: float = _global_ratio(0.8, ", at the peak time")
    seed: int = seed_number()
    compat: str | None = compat_with(PACK)

    @classmethod
    def simple(
        cls, *, slothful: float = 4.0, in_blend: float = 0.0, out_blend: float = 0.0, **others: Any
    ) -> Self:
        """Make one of the few parameters that the Simple node has.

        Parameters
        ----------
        slothful
            The strength for both kinds of blocks, 0 to 50; the modes are 2D_AVG and the depth
            decays 1.5.
        in_blend, out_blend
            Of keys and values, 0 to 1.
        **others
            Parameters that have nothing to do with pooling.

        Raises
        ------
        TypeError, ValueError
            If a parameter is out of its range; the message names it.
        """
        declared = {f.name: f for f in fields(cls)}
        slothful = checked(declared["in_slothful"], slothful, "slothful")
        sides = {"in": in_blend, "out": out_blend}
        for side, blend in sides.items():
            blend = checked(declared[f"{side}_k_blend"], blend, f"{side}_blend")
            others |= {f"{side}_slothful": slothful, f"{side}_depth_decay": 1.5}
            others |= {f"{side}_k_blend": blend, f"{side}_v_blend": blend}
        return cls(**others)

    @property
    def time_dependent(self) -> bool:
        """Whether what it does depends on the timestep: the offset does."""
        return True

    def skips(self, place: Place) -> str | None:
        """Say why it never acts at a layer; None where it may act."""
        stride = self.side(place.layer.block).stride(place)
        if _too_deep(place, self.tiling_max_depth) and stride <= 1:
            return (
                f"it is at depth {place.depth}, deeper than what is tiled, and its stride is "
                f"{stride:.2g} at most"
            )
        return None

    def plan(self, place: Place, call_key: CallKey, grid: Grid) -> Plan | None:
        """See ``TokenReduction.plan``."""
        side, ratio = self.side(place.layer.block), self.ratio(call_key)
        size = round(_between(self.base_tile_size, self.peak_tile_size, ratio))
        global_ratio = _between(self.base_global_ratio, self.peak_global_ratio, ratio)
        stride = side.stride(place, ratio)
        tiled = not _too_deep(place, self.tiling_max_depth)
        if self.imitates:
            grid = slothful_pack.guess_grid(call_key.latent, grid)
            pack_tiles = slothful_pack.tiles(grid, size)
            if not tiled or pack_tiles == (1, 1):
                return slothful_pack.pool_plan(stride, side.mode, side.blends, grid)
            return slothful_pack.near_sighted_plan(
                grid, pack_tiles, stride, global_ratio, side.mode, side.blends
            )
        pooled = side.pool(stride, grid)
        tiling = _make_tiling(grid, size, self.seed, call_key, place)
        tiles = _tiles(tiling)
        if not tiled or tiles == 1:
            return pooled
        if pooled is None:
            plan = TilePlan(tiling, shared=_sample(tiles, global_ratio, side.mode, grid))
        else:
            own = Pooling.of(stride, stride, side.mode, side.blends, tiling.tile)
            shared = None
            if global_ratio > 0:
                far = stride * tiles / global_ratio
                shared = Pooling.of(stride, far, side.mode, side.blends, grid)
            plan = TilePlan(tiling, own, shared)
        tokens = grid[0] * grid[1]
        left = tokens if pooled is None else pooled.tokens
        return plan if plan.pairs < tokens * left else pooled


def _between(base: float, peak: float, ratio: float) -> float:
    return base * (1.0 - ratio) + peak * ratio
