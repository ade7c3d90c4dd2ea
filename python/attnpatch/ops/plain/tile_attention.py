# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Attention in tiles: what must be copied is copied once, the result is written in its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from torch import Tensor

from attnpatch.ops.plain.attention import (
    attend,
    attention_with_lse,
    has_lse,
    heads_in_rows,
    no_attention,
    scale_of,
    share_of,
)
from attnpatch.ops.tiling import Tiling, grid_tiles, split_pooled


def tile_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grid: Sequence[int],
    tile: Sequence[int],
    offset: Sequence[int],
    stride: Sequence[int],
    shared_k: Tensor | None = None,
    shared_v: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Compute :func:`attnpatch.ops.tile_attention`."""
    if q.numel() == 0:
        return no_attention(q)
    scale = scale_of(q, scale)
    tiling = Tiling.of(grid, tile, offset)
    queries = _on_grid(q, tiling)
    own = zip(_own(k, tiling, stride), _own(v, tiling, stride), strict=True)
    if shared_k is None or shared_v is None or shared_k.shape[2] == 0:
        out = _nothing_yet(q)
        for asking, (keys, values), target in zip(queries, own, _on_grid(out, tiling), strict=True):
            tiles = attend(_as_batch(asking), _as_batch(keys), _as_batch(values), scale)
            target.copy_(_as_tiles(tiles, target))
    elif has_lse(q):
        # The shared keys once for the whole grid; each tile's own are then merged in.
        out, lse = attention_with_lse(q, shared_k, shared_v, scale)
        out = heads_in_rows(out)
        coarse_lse = _on_grid(lse[..., None], tiling)
        targets = _on_grid(out, tiling)
        for asking, (keys, values), target, coarse in zip(
            queries, own, targets, coarse_lse, strict=True
        ):
            tiles, tiles_lse = attention_with_lse(
                _as_batch(asking), _as_batch(keys), _as_batch(values), scale
            )
            share = share_of(_as_tiles(tiles_lse[..., None], coarse), coarse, out.dtype)
            target.lerp_(_as_tiles(tiles, target), share.squeeze(-1))
    else:
        out = _nothing_yet(q)
        for asking, (keys, values), target in zip(queries, own, _on_grid(out, tiling), strict=True):
            keys, values = _with_shared(keys, shared_k), _with_shared(values, shared_v)
            target.copy_(_as_tiles(attend(_as_batch(asking), keys, values, scale), target))
    return out


def _nothing_yet(q: Tensor) -> Tensor:
    """Memory for the result: joining its heads is a view."""
    batch, heads, queries, size = q.shape
    return q.new_empty((batch, queries, heads, size)).transpose(1, 2)


def _on_grid(tokens: Tensor, tiling: Tiling) -> Iterator[Tensor]:
    """View (B, H, N, D) as tiles of one shape each: (B, down, across, rows, columns, H, D)."""
    return chain.from_iterable(grid_tiles(tokens.transpose(1, 2), tiling))


def _own(tokens: Tensor, tiling: Tiling, stride: Sequence[int]) -> Iterator[Tensor]:
    """Keys or values as on the grid; pooled ones as (B, down, across, tokens, H, D)."""
    if not stride:
        return _on_grid(tokens, tiling)
    return chain.from_iterable(split_pooled(tokens.transpose(1, 2), tiling, stride))


def _as_batch(tiles: Tensor) -> Tensor:
    """Join tiles to a batch for attention: (B tiles, H, tokens, D)."""
    if tiles.dim() == 7:
        tiles = tiles.flatten(3, 4)
    return tiles.flatten(0, 2).transpose(1, 2)


def _as_tiles(batch: Tensor, like: Tensor) -> Tensor:
    """View what attention gives as the tiles of the grid that `like` is."""
    tiles = batch.transpose(1, 2).unflatten(1, like.shape[3:5])
    return tiles.unflatten(0, like.shape[:3])


def _with_shared(tiles: Tensor, shared: Tensor) -> Tensor:
    """Write each tile's own tokens and the shared ones side by side, as a batch for attention."""
    own = tiles.shape[3:-2].numel()
    side_by_side = tiles.new_empty((*tiles.shape[:3], own + shared.shape[2], *tiles.shape[-2:]))
    side_by_side[:, :, :, :own].view(tiles.shape).copy_(tiles)
    side_by_side[:, :, :, own:].copy_(shared.transpose(1, 2)[:, None, None])
    return _as_batch(side_by_side)
