# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Attention within tiles of the token grid, and to tokens that all tiles share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attnpatch.engine.edits import Inner
from attnpatch.engine.heads import join_heads, split_heads
from attnpatch.ops import Tiling, pool_tokens, tile_attention
from attnpatch.ops.tiling import join_grid, pooled_size, split_grid, split_pooled
from attnpatch.patches.token_reduction.pooling import Pooling

__all__ = ["TilePlan"]


@dataclass(frozen=True, slots=True)
class TilePlan:
    """Each tile's queries attend to the tile's own tokens and to shared ones. See ``Plan``.

    Parameters
    ----------
    tiling
        The tiles.
    own
        How each tile's own tokens are pooled; None: they stay.
    shared
        How the whole grid is pooled to the tokens that all tiles share; None: there are none.
        Where the own tokens stay, the shared ones are some of them, whatever its window.
    """

    tiling: Tiling
    own: Pooling | None = None
    shared: Pooling | None = None

    @property
    def own_tokens(self) -> int:
        """Keys of all tiles without the shared ones."""
        return self.tiling.pooled(() if self.own is None else self.own.stride)

    @property
    def shared_tokens(self) -> int:
        """Keys that all tiles share."""
        return 0 if self.shared is None else pooled_size(*self.tiling.grid, self.shared.stride)

    @property
    def pairs(self) -> int:
        """How many pairs of a query and a key there are."""
        stride = () if self.own is None else self.own.stride
        down, across = self.tiling.runs()
        within = sum(
            row.count * column.count * row.size * column.size
            * pooled_size(row.size, column.size, stride)
            for row in down
            for column in across
        )  # fmt: skip
        height, width = self.tiling.grid
        return within + height * width * self.shared_tokens

    def reduce(self, k_input: Tensor, v_input: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Plan.reduce``: each tile's pooled tokens, tile after tile, then the shared ones.

        Where the own tokens stay, so does everything: shared keys are some of the others.
        """
        if self.own is None:
            return k_input, v_input
        keys, values = self.own(k_input, v_input, self.tiling)
        if self.shared is None:
            return keys, values
        shared_keys, shared_values = self.shared(k_input, v_input, self.tiling.grid)
        alike = keys is values and shared_keys is shared_values
        keys = torch.cat([keys, shared_keys], dim=1)
        return keys, keys if alike else torch.cat([values, shared_values], dim=1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """See ``Plan.attend``."""
        expected = self.own_tokens + (0 if self.own is None else self.shared_tokens)
        if k.shape[2] != expected or k.shape[0] != q.shape[0]:
            return inner(q, k, v)  # another patch has changed the keys
        own_k, shared_k = self._split(k)
        own_v, shared_v = self._split(v)
        if not inner.is_softmax:
            return self._through(inner, q, (own_k, own_v), (shared_k, shared_v))
        stride = () if self.own is None else self.own.stride
        return tile_attention(q, own_k, own_v, self.tiling, stride, shared_k, shared_v)

    def _split(self, keys: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tell own from shared keys or values."""
        if self.shared is None:
            return keys, None
        if self.own is None:
            stride = self.shared.stride
            flat = join_heads(keys)
            (some,) = pool_tokens(flat, self.tiling.grid, stride, stride, "avg", (0.0,))
            return keys, split_heads(some, keys.shape[1])
        return keys[:, :, : self.own_tokens], keys[:, :, self.own_tokens :]

    def _through(
        self,
        inner: Inner,
        q: Tensor,
        own: tuple[Tensor, Tensor],
        shared: tuple[Tensor | None, Tensor | None],
    ) -> Tensor:
        """Call another patch's attention with tiles of one shape as a batch (batch · tiles, …)."""
        tiling, stride = self.tiling, () if self.own is None else self.own.stride
        heads = q.shape[1]
        common_k, common_v = (None if x is None else join_heads(x) for x in shared)

        def cut(keys: Tensor) -> list[list[Tensor]]:
            keys = join_heads(keys)
            return split_pooled(keys, tiling, stride) if stride else split_grid(keys, tiling)

        def with_shared(tiles: Tensor, common: Tensor | None) -> Tensor:
            if common is not None:
                common = common[:, None, None].expand(-1, *tiles.shape[1:3], -1, -1)
                tiles = torch.cat([tiles, common], dim=3)
            return split_heads(tiles.flatten(0, 2), heads)

        def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            out = inner(
                split_heads(queries.flatten(0, 2), heads),
                with_shared(keys, common_k),
                with_shared(values, common_v),
            )
            return join_heads(out).unflatten(0, queries.shape[:3])

        lines = zip(split_grid(join_heads(q), tiling), cut(own[0]), cut(own[1]), strict=True)
        out = join_grid([list(map(attend, *line)) for line in lines], tiling)
        return split_heads(out, heads)
