# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Fewer tokens: one launch where windows lie side by side and tiles hold whole ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor

from attnpatch.ops.tiling import Tiling, grid_tiles, split_pooled


def pool_tokens(
    x: Tensor,
    grid: Sequence[int],
    tile: Sequence[int],
    offset: Sequence[int],
    window: Sequence[int],
    stride: Sequence[int],
    mode: str,
    blends: Sequence[float],
) -> list[Tensor]:
    """Compute the operator of :func:`attnpatch.ops.pool_tokens`."""
    tiling = Tiling.of(grid, tile, offset)
    if tiling.tiles == (1, 1) and x.numel() > 0:
        field = x.unflatten(1, tiling.grid)
        return [result.flatten(1, 2) for result in _pool(field, window, stride, mode, blends)]
    tokens = tiling.pooled(stride)
    results = [x.new_empty((x.shape[0], tokens, x.shape[2])) for _ in blends]
    if x.numel() == 0:
        return results
    small = _pooled_tiling(tiling, window, stride)
    if small is not None:
        # No window leaves its tile: the grid is pooled at once.
        fields = _pool(x.unflatten(1, tiling.grid), window, stride, mode, blends)
        for field, result in zip(fields, results, strict=True):
            parts = chain.from_iterable(grid_tiles(field.flatten(1, 2), small))
            boxes = chain.from_iterable(split_pooled(result, small, ()))
            for box, part in zip(boxes, parts, strict=True):
                box.unflatten(3, part.shape[3:5]).copy_(part)
        return results
    places = [list(chain.from_iterable(split_pooled(r, tiling, stride))) for r in results]
    for i, part in enumerate(chain.from_iterable(grid_tiles(x, tiling))):
        fields = _pool(part.flatten(0, 2), window, stride, mode, blends)
        for field, mine in zip(fields, places, strict=True):
            mine[i].copy_(field.flatten(1, 2).unflatten(0, part.shape[:3]))
    return results


def _pooled_tiling(tiling: Tiling, window: Sequence[int], stride: Sequence[int]) -> Tiling | None:
    """Tile what the whole grid pools to; None where its windows would cross borders of tiles."""
    if len(stride) == 1 or tuple(window) != tuple(stride):
        return None
    borders = zip((*tiling.tile, *tiling.offset), (*stride, *stride), strict=True)
    if any(border % step for border, step in borders):
        return None

    def pooled(pair: tuple[int, int]) -> tuple[int, int]:
        return -(-pair[0] // stride[0]), -(-pair[1] // stride[1])

    return Tiling(pooled(tiling.grid), pooled(tiling.tile), pooled(tiling.offset))


def _pool(
    field: Tensor, window: Sequence[int], stride: Sequence[int], mode: str, blends: Sequence[float]
) -> list[Tensor]:
    """Reduce (B, h, w, C) to contiguous (B, rows, columns, C), one for each blend."""
    if len(stride) == 1:
        field, window, stride = field.flatten(1, 2)[:, None], (1, *window), (1, *stride)
    first = field[:, :: stride[0], :: stride[1]]
    pooled = _windows(field, window, stride, mode) if any(blends) else first

    def blended(blend: float) -> Tensor:
        if blend == 0:
            return first.clone(memory_format=torch.contiguous_format)
        if blend == 1:
            return pooled if blends.count(1.0) == 1 else pooled.clone()
        return torch.lerp(first, pooled, blend).contiguous()

    return [blended(blend) for blend in blends]


def _windows(field: Tensor, window: Sequence[int], stride: Sequence[int], mode: str) -> Tensor:
    """Pool (B, h, w, C) over windows that end where the field ends: contiguous."""
    sizes = field.shape[1:3]
    window = [min(pair) for pair in zip(window, sizes, strict=True)]
    stride = [min(pair) for pair in zip(stride, sizes, strict=True)]
    if mode == "max" and field.device.type != "cpu" and _fill_the_field(sizes, window, stride):
        return largest_of_blocks(field, stride)
    image = field.permute(0, 3, 1, 2)
    # What a window lacks that begins at every stride-th token. Where windows lie side by side torch
    # gives a ragged one its due.
    missing = [
        max(0, (size - 1) // step * step + length - size)
        for size, step, length in zip(sizes, stride, window, strict=True)
    ]
    ragged = zip(missing, window, stride, strict=True)
    if any(lacks and length != step for lacks, length, step in ragged):
        pooled = _pool_filled(image, window, stride, missing, mode)
    else:
        pool = F.max_pool2d if mode == "max" else F.avg_pool2d
        pooled = pool(image, window, stride, ceil_mode=True)
    return pooled.permute(0, 2, 3, 1).contiguous()


def _fill_the_field(sizes: Sequence[int], window: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether whole windows lie side by side."""
    return all(
        size % step == 0 and length == step
        for size, step, length in zip(sizes, stride, window, strict=True)
    )


def largest_of_blocks(field: Tensor, block: Sequence[int]) -> Tensor:
    """Pool as torch does, which on a GPU also writes where each largest value was; slow on CPUs."""
    apart = field.unflatten(2, (-1, block[1])).unflatten(1, (-1, block[0]))
    return apart.amax(dim=(2, 4)).contiguous()


def _pool_filled(
    image: Tensor, window: Sequence[int], stride: Sequence[int], missing: Sequence[int], mode: str
) -> Tensor:
    """Pool (B, C, h, w) filled up with what has no weight; means are computed in float32."""
    fill = (0, missing[1], 0, missing[0])
    window, stride = list(window), list(stride)
    if mode == "max":
        return F.max_pool2d(F.pad(image, fill, value=-torch.inf), window, stride)
    ones = F.pad(image.new_ones((1, 1, *image.shape[2:]), dtype=torch.float32), fill)
    counts = F.avg_pool2d(ones, window, stride, divisor_override=1)
    padded = F.pad(image, fill).to(torch.promote_types(image.dtype, torch.float32))
    sums = F.avg_pool2d(padded, window, stride, divisor_override=1)
    return (sums / counts).to(image.dtype)
