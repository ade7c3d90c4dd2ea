# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""HyperTile: self-attention within tiles alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnpatch.ops import Tiling
from attnpatch.patches.token_reduction.parameters import flag, seed_number, whole_number
from attnpatch.patches.token_reduction.patch import CallKey, Place, TokenReduction, draw
from attnpatch.patches.token_reduction.stage import Grid, Plan
from attnpatch.patches.token_reduction.tiling import TilePlan

__all__ = ["HyperTile"]

_PIXELS = 8  # of a picture for one token of the latent
_SMALLEST = 32


@dataclass(frozen=True, kw_only=True, repr=False)
class HyperTile(TokenReduction):
    """Self-attention within tiles of the picture: queries, keys and values of one's own tile.

    Rows and columns of the token grid are each cut in as many tiles of at least `tile_size` as fit,
    or in fewer, which is drawn anew at every layer and step, so that their borders move. Any size
    can be cut: the last tiles may be smaller.

    Parameters
    ----------
    tile_size
        Least side of a tile, 8 for each token, which is pixels where a layer has all tokens of the
        latent: 1 to 2048, of which less than 32 is 32; 256 by default.
    swap_size
        From how many numbers of tiles one is drawn, 1 to 128; 2.
    max_depth
        How deep layers are tiled, 0 to 10: 0 (the default) only those of the width at which the
        model first attends, 1 also those of twice that width, and so on.
    scale_depth
        Let tiles of deeper layers have twice as many rows and columns of tokens for each level;
        without it they have as many.
    seed
        Decides on what is drawn, with the timestep and the layer.

    Raises
    ------
    TypeError, ValueError
        If a parameter is out of its range; the message names it.

    Notes
    -----
    github.com/tfernd/HyperTile (MIT).
    """

    type_name: ClassVar[str] = "hyper_tile"

    tile_size: int = whole_number(
        256, 1, 2048, 1, "Least side of a tile, in pixels: 8 for each token."
    )
    swap_size: int = whole_number(2, 1, 128, 1, "From how many numbers of tiles one is drawn.")
    max_depth: int = whole_number(
        0, 0, 10, 1, "How deep layers are tiled, counted from the model's first attention."
    )
    scale_depth: bool = flag("Make tiles of deeper layers wider.")
    seed: int = seed_number()

    @property
    def time_dependent(self) -> bool:
        """Whether what it does depends on the timestep."""
        return self.swap_size > 1

    @property
    def reduces_inputs(self) -> bool:
        """Whether keys and values are projected from fewer tokens; else they are reduced after."""
        return False

    def skips(self, place: Place) -> str | None:
        """Say why it never acts at a layer; None where it may act."""
        return place.deeper_than(self.max_depth + 1)

    def plan(self, place: Place, call_key: CallKey, grid: Grid) -> Plan | None:
        """See ``TokenReduction.plan``."""
        least = max(_SMALLEST, self.tile_size) // _PIXELS
        if self.scale_depth:
            least = round(least / place.rate)
        random = draw(self.seed, call_key, place)

        def side(length: int) -> int:
            most = max(1, length // least)
            tiles = most - random.randrange(min(self.swap_size, most))
            return -(-length // tiles)

        tile = side(grid[0]), side(grid[1])
        return None if tile == grid else TilePlan(Tiling(grid, tile))
