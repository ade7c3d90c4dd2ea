# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A token grid cut in rectangles, and how many tokens are left of them once they are pooled."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor

__all__ = ["Tiling"]


class Run(NamedTuple):
    """Neighbouring tiles of one size along an axis of the grid: equal but for the first and last.

    Attributes
    ----------
    start
        Where on the axis the first of them begins.
    count
        How many there are.
    size
        Tokens of each along the axis.
    """

    start: int
    count: int  # type: ignore[assignment]  # the method of tuples gives way
    size: int

    @property
    def end(self) -> int:
        """Where the last of them ends."""
        return self.start + self.count * self.size


@dataclass(frozen=True)
class Tiling:
    """A grid of tokens, row by row, cut in tiles; those at the borders may be smaller.

    Tiles are counted row by row too, and so are the tokens within a tile.

    Parameters
    ----------
    grid
        Rows and columns of the grid.
    tile
        Rows and columns of a tile.
    offset
        How much of the first tiles lies outside, above and left of the grid: below `tile`.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """

    grid: tuple[int, int]
    tile: tuple[int, int]
    offset: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        for name in ("grid", "tile", "offset"):
            numbers = getattr(self, name)
            pair = tuple(operator.index(number) for number in numbers)
            if len(pair) != 2 or min(pair) < (name != "offset"):
                least = 0 if name == "offset" else 1
                raise ValueError(f"{name}: expected two numbers of at least {least}, got {numbers}")
            object.__setattr__(self, name, pair)
        if any(offset >= size for offset, size in zip(self.offset, self.tile, strict=True)):
            raise ValueError(f"offset: expected less than the tile {self.tile}, got {self.offset}")

    @classmethod
    def of(cls, grid: Sequence[int], tile: Sequence[int], offset: Sequence[int]) -> Tiling:
        """Make one of what operators are given: sequences, which the class itself checks."""
        return cls(_pair(grid), _pair(tile), _pair(offset))

    @property
    def tiles(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        height, width = (
            -(-(length + offset) // size)
            for length, size, offset in zip(self.grid, self.tile, self.offset, strict=True)
        )
        return height, width

    def runs(self) -> tuple[list[Run], list[Run]]:
        """Rows and columns of tiles, equal ones together: up to three runs an axis."""
        down, across = (
            _runs(length, size, offset)
            for length, size, offset in zip(self.grid, self.tile, self.offset, strict=True)
        )
        return down, across

    def pooled(self, stride: Sequence[int]) -> int:
        """Tokens of the whole grid, each tile pooled with this stride; see :func:`pool_tokens`."""
        down, across = self.runs()
        return sum(
            row.count * column.count * pooled_size(row.size, column.size, stride)
            for row in down
            for column in across
        )


def _runs(length: int, size: int, offset: int) -> list[Run]:
    first = min(size - offset, length) if offset else 0
    whole, last = divmod(length - first, size)
    runs = [Run(0, 1, first), Run(first, whole, size), Run(length - last, 1, last)]
    return [run for run in runs if run.count * run.size > 0]


def _pair(numbers: Sequence[int]) -> tuple[int, int]:
    return cast("tuple[int, int]", tuple(numbers))


def pooled_size(height: int, width: int, stride: Sequence[int]) -> int:
    """Tokens left of a tile: every stride-th along its tokens, or along its rows and columns."""
    if len(stride) == 1:
        return -(-height * width // stride[0])
    return -(-height // stride[0]) * -(-width // stride[1]) if stride else height * width


def grid_tiles(tokens: Tensor, tiling: Tiling) -> list[list[Tensor]]:
    """View tokens that lie in the grid's order, tile by tile.

    Parameters
    ----------
    tokens : Tensor
        (batch, h * w, …).

    Returns
    -------
    list of list of Tensor
        For every pair of runs its tiles, a view: (batch, rows of tiles, columns of tiles, rows of a
        tile, columns of a tile, …).
    """
    down, across = tiling.runs()
    field = tokens.unflatten(1, tiling.grid)

    def part(row: Run, column: Run) -> Tensor:
        tiles = field[:, row.start : row.end, column.start : column.end]
        tiles = tiles.unflatten(2, (column.count, column.size))
        return tiles.unflatten(1, (row.count, row.size)).transpose(2, 3)

    return [[part(row, column) for column in across] for row in down]


def split_grid(tokens: Tensor, tiling: Tiling) -> list[list[Tensor]]:
    """Cut tokens that lie in the grid's order.

    Parameters
    ----------
    tokens : Tensor
        (batch, h * w, …).

    Returns
    -------
    list of list of Tensor
        For every pair of runs its tiles: (batch, rows, columns, tokens of a tile, …).
    """
    return [[part.flatten(3, 4) for part in line] for line in grid_tiles(tokens, tiling)]


def join_grid(parts: Sequence[Sequence[Tensor]], tiling: Tiling) -> Tensor:
    """Put together again what :func:`split_grid` gives."""
    down, across = tiling.runs()

    def strip(part: Tensor, row: Run, column: Run) -> Tensor:
        part = part.unflatten(3, (row.size, column.size)).transpose(2, 3)
        return part.flatten(3, 4).flatten(1, 2)

    lines = [
        torch.cat([strip(p, row, column) for p, column in zip(line, across, strict=True)], dim=2)
        for line, row in zip(parts, down, strict=True)
    ]
    return torch.cat(lines, dim=1).flatten(1, 2)


def split_pooled(tokens: Tensor, tiling: Tiling, stride: Sequence[int]) -> list[list[Tensor]]:
    """Cut tokens that lie tile after tile, pooled; the result is as that of :func:`split_grid`."""
    down, across = tiling.runs()
    parts = []
    for row in down:
        counts = [column.count * pooled_size(row.size, column.size, stride) for column in across]
        line, tokens = tokens.split_with_sizes(
            [row.count * sum(counts), tokens.shape[1] - row.count * sum(counts)], dim=1
        )
        columns = line.unflatten(1, (row.count, sum(counts))).split_with_sizes(counts, dim=2)
        parts.append(
            [
                part.unflatten(2, (column.count, -1))
                for part, column in zip(columns, across, strict=True)
            ]
        )
    return parts


def join_pooled(parts: Sequence[Sequence[Tensor]]) -> Tensor:
    """Put together again what :func:`split_pooled` gives."""
    lines = [torch.cat([part.flatten(2, 3) for part in line], dim=2) for line in parts]
    return torch.cat([line.flatten(1, 2) for line in lines], dim=1)
