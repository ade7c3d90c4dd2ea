# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Fewer keys and values by pooling tokens along their row or on their grid."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attnpatch._core import pool_extent
from attnpatch.engine.edits import Inner
from attnpatch.ops import Tiling, pool_tokens, tile_attention
from attnpatch.ops.tiling import pooled_size
from attnpatch.patches.token_reduction.stage import Grid

__all__ = ["MODES", "PoolPlan", "Pooling", "reduce_tokens"]

MODES = ("1D_AVG", "1D_MAX", "2D_AVG", "2D_MAX")
"""How tokens are pooled: along the tokens or on their grid, by the mean or the maximum."""

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)  # of our kernels


@dataclass(frozen=True, slots=True)
class Pooling:
    """How the tokens of a grid, or of each of its tiles, are pooled."""

    window: tuple[int, ...]
    stride: tuple[int, ...]
    mode: str
    """ "avg" or "max"."""
    blends: tuple[float, float]
    """Of keys and values: 0 takes every stride-th token as it is, 1 what its window pools to."""

    @classmethod
    def of(
        cls, size: float, stride: float, mode: str, blends: tuple[float, float], grid: Grid
    ) -> Pooling:
        """Make one for windows of `size` tokens at every `stride`-th token, any real numbers.

        Parameters
        ----------
        size, stride
            In tokens, of both dimensions together.
        mode
            One of ``MODES``.
        blends
            Of keys and values, 0 to 1.
        grid
            Rows and columns; of a tile, where each tile is pooled.
        """
        dimensions = int(mode[0])
        window = tuple(pool_extent(size, dimensions, grid))
        return cls(window, tuple(pool_extent(stride, dimensions, grid)), mode[3:].lower(), blends)

    def __call__(
        self, k_input: Tensor, v_input: Tensor, grid: Grid | Tiling
    ) -> tuple[Tensor, Tensor]:
        """Pool (batch, tokens of the grid, channels) for keys and for values."""
        k_blend, v_blend = self.blends
        if k_input is v_input:
            blends = self.blends if k_blend != v_blend else (k_blend,)
            pooled = pool_tokens(k_input, grid, self.window, self.stride, self.mode, blends)
            return pooled[0], pooled[-1]
        (keys,) = pool_tokens(k_input, grid, self.window, self.stride, self.mode, (k_blend,))
        (values,) = pool_tokens(v_input, grid, self.window, self.stride, self.mode, (v_blend,))
        return keys, values


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """Keys and values from pooled tokens; every query stays. See ``Plan``."""

    grid: Grid
    pooling: Pooling

    @property
    def tokens(self) -> int:
        """How many keys there are."""
        return pooled_size(*self.grid, self.pooling.stride)

    def reduce(self, k_input: Tensor, v_input: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Plan.reduce``."""
        return self.pooling(k_input, v_input, self.grid)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """See ``Plan.attend``."""
        # Else another patch has changed them.
        expected = (k.shape[0], k.shape[2]) == (q.shape[0], self.tokens)
        if not (inner.is_softmax and expected and _has_kernel(q)):
            return inner(q, k, v)
        # The whole grid as one tile: our kernel is quicker than torch's attention on CPUs.
        return tile_attention(q, k, v, Tiling(self.grid, self.grid), self.pooling.stride)


def _has_kernel(q: Tensor) -> bool:
    return q.is_cpu and q.dtype in _DTYPES and not q.requires_grad


def reduce_tokens(
    x: Tensor,
    grid: Grid,
    stride: float,
    *,
    size: float | None = None,
    mode: str = "2D_AVG",
    k_blend: float = 0.0,
    v_blend: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Give what keys and values are projected from, as Slothful Attention does, for tensors alone.

    Parameters
    ----------
    x : Tensor
        The input of self-attention, (batch, h · w, channels); float32, float16 or bfloat16.
    grid : tuple of int
        h and w.
    stride : float
        How many tokens become one, in both dimensions together; at 1 or less x is given back.
    size : float, optional
        How many tokens are pooled to one; `stride` by default.
    mode : str
        "1D_AVG", "1D_MAX", "2D_AVG" or "2D_MAX".
    k_blend, v_blend : float
        0 to 1: 0 takes every n-th token as it is, 1 what its window pools to.

    Returns
    -------
    tuple of Tensor
        Inputs of the projections to keys and to values, (batch, fewer tokens, channels); the same
        tensor twice where the blends are equal.

    Raises
    ------
    ValueError, RuntimeError
        If an argument does not fit; the message names it.

    Examples
    --------
    >>> k_input, v_input = reduce_tokens(x, (64, 64), stride=4)
    >>> k, v = to_k(k_input), to_v(v_input)
    """
    if mode not in MODES:
        raise ValueError(f"mode: expected one of {', '.join(map(repr, MODES))}, got {mode!r}")
    if not stride > 1:
        return x, x
    size = stride if size is None else size
    return Pooling.of(size, stride, mode, (k_blend, v_blend), grid)(x, x, grid)
