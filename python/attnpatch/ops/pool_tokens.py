# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Fewer tokens: every stride-th one, blended with what a window around it pools to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from attnpatch.ops import plain
from attnpatch.ops.checks import checked
from attnpatch.ops.library import call, register
from attnpatch.ops.tiling import Tiling, join_pooled, split_grid


def pool_tokens(
    x: Tensor,
    grid: tuple[int, int] | Tiling,
    window: Sequence[int],
    stride: Sequence[int],
    mode: str = "avg",
    blends: Sequence[float] = (1.0,),
) -> list[Tensor]:
    """Reduce the tokens of a grid, or of each of its tiles.

    Computes, for each of `blends` and for every stride-th token, ::

        (1 - blend) * token + blend * pool(tokens of the window that begins at this one)

    A window ends where the grid or its tile ends: nothing is padded.

    Parameters
    ----------
    x : Tensor
        (batch, h * w, channels) on the grid, row by row; float32, float16 or bfloat16, any strides.
    grid : tuple of int, or Tiling
        Rows and columns; or a tiling, each tile of which is pooled on its own.
    window, stride : sequence of int
        One number: along the tokens as they lie in the grid, or in a tile, row by row. Two: along
        rows and columns.
    mode : str
        ``"avg"`` or ``"max"``.
    blends : sequence of float
        0 to 1 each. At 0 no window is read; at 1 only the pooled token counts.

    Returns
    -------
    list of Tensor
        One for each blend, contiguous (batch, fewer tokens, channels): in the grid's order; with a
        tiling, tile after tile.

    Raises
    ------
    RuntimeError
        If an argument does not fit; the message names it.

    Examples
    --------
    >>> import torch
    >>> from attnpatch.ops import pool_tokens
    >>> x = torch.arange(8.0).reshape(1, 8, 1)  # two rows of four tokens, of one channel
    >>> (means,) = pool_tokens(x, (2, 4), window=(2, 2), stride=(2, 2))
    >>> means.flatten().tolist()
    [2.5, 4.5]
    """
    if not isinstance(grid, Tiling | Sequence):
        raise TypeError(f"grid: expected rows and columns, or a Tiling, got {grid!r}")
    tiling = grid if isinstance(grid, Tiling) else Tiling(grid, grid)
    return call(
        torch.ops.attnpatch.pool_tokens.default,
        pool_tokens_reference,
        *(x, tiling.grid, tiling.tile, tiling.offset, window, stride, mode, blends),
    )


@checked("pool_tokens", wide=True)
def pool_tokens_reference(
    x: Tensor,
    grid: Sequence[int],
    tile: Sequence[int],
    offset: Sequence[int],
    window: Sequence[int],
    stride: Sequence[int],
    mode: str,
    blends: Sequence[float],
) -> list[Tensor]:
    """Compute the operator readably, on any device, differentiably."""
    tiling = Tiling.of(grid, tile, offset)
    if x.numel() == 0:
        return [x.new_empty((x.shape[0], tiling.pooled(stride), x.shape[2])) for _ in blends]
    down, across = tiling.runs()
    parts = [
        [
            _pool(part, (row.size, column.size), window, stride, mode, blends)
            for part, column in zip(line, across, strict=True)
        ]
        for line, row in zip(split_grid(x, tiling), down, strict=True)
    ]
    return [
        join_pooled([[pooled[i] for pooled in line] for line in parts]) for i in range(len(blends))
    ]


def _pool(
    tiles: Tensor,
    size: tuple[int, int],
    window: Sequence[int],
    stride: Sequence[int],
    mode: str,
    blends: Sequence[float],
) -> list[Tensor]:
    """Reduce tiles (B, rows, columns, tokens, C) of one size."""
    if len(stride) == 1:
        size, window, stride = (1, size[0] * size[1]), (1, *window), (1, *stride)
    field = tiles.flatten(0, 2).unflatten(1, size)
    first = field[:, :: stride[0], :: stride[1]]
    if any(blends):
        pooled = _windows(field, window, stride, mode)

    def blended(blend: float) -> Tensor:
        if blend == 0:
            reduced = first
        elif blend == 1:
            reduced = pooled.to(tiles.dtype)
        else:
            reduced = torch.lerp(first.to(pooled.dtype), pooled, blend).to(tiles.dtype)
        return reduced.flatten(1, 2).unflatten(0, tiles.shape[:3])

    return [blended(blend) for blend in blends]


def _windows(field: Tensor, window: Sequence[int], stride: Sequence[int], mode: str) -> Tensor:
    """Pool (B, h, w, C) over windows that end where the field ends: (B, rows, columns, C)."""
    sizes = field.shape[1:3]
    window = [min(pair) for pair in zip(window, sizes, strict=True)]
    # Filled up so that a window begins at every stride-th token; what is filled in has no weight.
    missing = [
        max(0, (size - 1) // step * step + length - size)
        for size, step, length in zip(sizes, stride, window, strict=True)
    ]
    fill = (0, missing[1], 0, missing[0])
    image = field.permute(0, 3, 1, 2).to(torch.promote_types(field.dtype, torch.float32))
    if mode == "max":
        image = F.pad(image, fill, value=-torch.inf)
        return F.max_pool2d(image, window, list(stride)).permute(0, 2, 3, 1)
    ones = F.pad(torch.ones_like(image[:1, :1]), fill)
    sums = F.avg_pool2d(F.pad(image, fill), window, list(stride), divisor_override=1)
    counts = F.avg_pool2d(ones, window, list(stride), divisor_override=1)
    return (sums / counts).permute(0, 2, 3, 1)


def _fake(
    x: Tensor,
    grid: Sequence[int],
    tile: Sequence[int],
    offset: Sequence[int],
    window: Sequence[int],
    stride: Sequence[int],
    mode: str,
    blends: Sequence[float],
) -> list[Tensor]:
    tokens = Tiling.of(grid, tile, offset).pooled(stride)
    return [x.new_empty((x.shape[0], tokens, x.shape[2])) for _ in blends]


register(
    "pool_tokens",
    pool_tokens_reference,
    plain.pool_tokens,
    _fake,
    beyond=lambda limits, x, *_: x.shape[0] > limits.grid,
)
