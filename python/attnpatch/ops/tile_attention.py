# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Self-attention in tiles: near tokens of one's own tile, and shared far ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attnpatch.ops import plain
from attnpatch.ops.attention import attention
from attnpatch.ops.checks import checked
from attnpatch.ops.library import call, heads_are_beyond, register
from attnpatch.ops.tiling import Tiling, join_grid, split_grid, split_pooled


def tile_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tiling: Tiling,
    stride: Sequence[int] = (),
    shared_k: Tensor | None = None,
    shared_v: Tensor | None = None,
    *,
    scale: float | None = None,
) -> Tensor:
    """Attend within tiles of the token grid, and to tokens that all tiles share.

    Computes for each query, with the keys and values of its tile and the shared ones in one
    softmax, ::

        softmax(scale * q [k_tile, shared_k]) [v_tile, shared_v]

    Parameters
    ----------
    q : Tensor
        Queries (batch, heads, h * w, head size) on the tiling's grid, row by row; float32, float16
        or bfloat16, any strides.
    k, v : Tensor
        The tiles' own keys and values (batch, heads, tokens, head size): on the same grid as q; or,
        where `stride` is given, tile after tile. Of as many heads as q, or of a divisor of them:
        neighbouring heads of q then have theirs in common.
    tiling : Tiling
        How the grid is cut.
    stride : sequence of int
        Empty: k and v are on the grid. One or two numbers: they were made by :func:`pool_tokens`
        with this tiling and stride.
    shared_k, shared_v : Tensor, optional
        Keys and values (batch, heads of k, any count, head size) that all tiles attend to.
    scale : float, optional
        Finite; 1 / sqrt(head size) by default.

    Returns
    -------
    Tensor
        (batch, heads, h * w, head size) in q's dtype, laid out in memory as (batch, h * w, heads,
        head size), so that joining the heads is a view.

    Raises
    ------
    RuntimeError
        If shapes, dtypes or devices do not fit; the message names the argument.

    Examples
    --------
    Four tiles, each of which attends to itself alone:

    >>> import torch
    >>> from attnpatch.ops import Tiling, tile_attention
    >>> q = torch.randn(2, 8, 4 * 6, 40)  # batch, heads, 4 rows of 6 tokens, head size
    >>> tile_attention(q, q, q, Tiling(grid=(4, 6), tile=(2, 3))).shape
    torch.Size([2, 8, 24, 40])
    """
    if not isinstance(tiling, Tiling):
        raise TypeError(f"tiling: expected a Tiling, got {tiling!r}")
    return call(
        torch.ops.attnpatch.tile_attention.default,
        tile_attention_reference,
        *(q, k, v, tiling.grid, tiling.tile, tiling.offset, stride, shared_k, shared_v, scale),
    )


@checked("tile_attention", wide=True)
def tile_attention_reference(
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
    """Compute the operator readably, on any device, differentiably."""
    tiling = Tiling.of(grid, tile, offset)

    def tiles_of(tokens: Tensor, stride: Sequence[int]) -> list[list[Tensor]]:
        tokens = tokens.transpose(1, 2)
        return split_pooled(tokens, tiling, stride) if stride else split_grid(tokens, tiling)

    def with_shared(own: Tensor, shared: Tensor | None) -> Tensor:
        if shared is None:
            return own
        shared = shared.transpose(1, 2)[:, None, None].expand(-1, *own.shape[1:3], -1, -1, -1)
        return torch.cat([own, shared], dim=3)

    def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Tiles of one shape, (B, rows, columns, tokens, heads, size), as one batch."""
        keys, values = with_shared(keys, shared_k), with_shared(values, shared_v)
        q, k, v = (tokens.flatten(0, 2).transpose(1, 2) for tokens in (queries, keys, values))
        out = attention(q, k, v, scale)
        return out.transpose(1, 2).unflatten(0, queries.shape[:3])

    lines = zip(tiles_of(q, ()), tiles_of(k, stride), tiles_of(v, stride), strict=True)
    out = [list(map(attend, *line)) for line in lines]
    return join_grid(out, tiling).transpose(1, 2)


def _fake(q: Tensor, *_: object) -> Tensor:
    batch, heads, queries, size = q.shape
    return q.new_empty((batch, queries, heads, size)).transpose(1, 2)


register(
    "tile_attention",
    tile_attention_reference,
    plain.tile_attention,
    _fake,
    cast=(0, 1, 2, 7, 8),
    beyond=lambda limits, q, k, *_: heads_are_beyond(limits, q, k),
)
