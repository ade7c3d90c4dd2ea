# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
r"""A bias of low rank as a few more channels of queries and keys, for any attention there is.

With u and w the factors of a query and a key, ::

    scale * [q, u] [k, w / scale]^T = scale * q k^T + u w^T

Each term takes these channels, in the dtype of q:

- finite factors: one in float32; in 16-bit types three, :math:`u_h w_h + u_h w_l + u_l w_h`, of a
  high and a low half of each factor. That is off by at most 3 * 2^-16 of the product in bfloat16,
  and by 3 * 2^-22 of it and 2^-21 of the two factors in float16, whose small halves have few bits.
- infinite factors: two gates, :math:`\pm G` in a query and in keys that leave it, 0 elsewhere.
  G² is so much that no score makes up for it, so that a key that leaves gets a weight of exactly 0.

A bias of keys that is the same over runs of them could be had from attentions to each run, merged
by their log-sum-exps. That saves channels where a backend takes no other head size; but it needs
the runs, which stand in tensors that nobody waits for here, and a launch and a result for each.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from attnpatch.ops.plain.attention import attend, heads_in_rows, no_attention, scale_of

_CHANNELS = 8
"""Fused kernels take head sizes that are multiples of it."""

_SCALES = (2.0**-12, 2.0**4)
"""Beyond them factors would leave the range of float16, or lose bits there."""

_GATES = {torch.float16: 65504.0}
"""What gates are worth in float16: the largest number it has."""

_GATE = 2.0**40
"""And in other types: squared, summed and scaled it stays a number of float32."""


def biased_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_bias: Tensor | None = None,
    key_bias: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Compute :func:`attnpatch.ops.biased_attention`."""
    if q.numel() == 0 or k.shape[2] == 0:
        return no_attention(q).fill_(math.nan)
    scale = scale_of(q, scale)
    if query_bias is None or key_bias is None or query_bias.shape[2] == 0:
        return heads_in_rows(attend(q, k, v, scale))
    dtype, size = q.dtype, q.shape[3]
    if not _takes(scale):
        q, k, v, scale = q.float() * scale, k.float(), v.float(), 1.0
    channels = _Channels.of(query_bias, key_bias, scale, q)
    out = attend(*channels.joined(q, k, v), scale)
    return _cut(out, channels.query_gates, size).to(dtype)


def padded(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_bias: Tensor,
    key_bias: Tensor,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Make tensors whose plain attention is the biased one, for a backend of one's own.

    Parameters
    ----------
    q, k, v, query_bias, key_bias
        As :func:`attnpatch.ops.biased_attention` takes them; they are not checked here. In float16
        finite factors count up to 65,504 for keys and 32,000 times the scale for queries, as these
        beyond it. A key that leaves is gone as long as its q k^T, without scale, is less than 2^30
        in float16, 2^79 in other types.
    scale : float, optional
        That the backend is to be given as well, 2^-12 to 16; 1 / sqrt(head size of q) by default,
        which is not what the backend would take by itself.

    Returns
    -------
    tuple of Tensor
        Queries, keys and values in q's dtype, contiguous new memory, with a head size that is the
        next multiple of 8 with room for three channels a term in float32, five in 16-bit types. The
        first channels of their attention are the result: cut it, or call :func:`unpadded`, which
        sees queries that all keys have left. A query that a product of plus infinity meets has
        NaNs already here.

    Raises
    ------
    ValueError
        The scale does not lie in that range.
    """
    scale = scale_of(q, scale)
    if not _takes(scale):
        low, high = _SCALES
        raise ValueError(f"scale: expected a number from {low:g} to {high:g}, got {scale:g}")
    return _Channels.of(query_bias, key_bias, scale, q).joined(q, k, v)


def unpadded(out: Tensor, query_bias: Tensor, head_size: int) -> Tensor:
    """Cut the attention to :func:`padded` tensors back.

    Parameters
    ----------
    out : Tensor
        (batch, heads, queries, head size of the padded tensors).
    query_bias : Tensor
        That was given to :func:`padded`.
    head_size : int
        Of the tensors that were given to it.

    Returns
    -------
    Tensor
        (batch, heads, queries, head size), laid out in memory as (batch, queries, heads, head
        size); not a number for queries that all keys have left.
    """
    return _cut(out, _gates(query_bias).to(out.dtype), head_size)


def _cut(out: Tensor, query_gates: Tensor, size: int) -> Tensor:
    # These channels of the values say which gates a key has. One that stays has none of the
    # query's; one that leaves has, and a weight of 0, unless all leave.
    gates = query_gates[:, None]
    met = (out[..., size : size + gates.shape[3]] * gates).sum(dim=3, keepdim=True)
    result = heads_in_rows(out[..., :size])
    return result.masked_fill_(met < -0.5, math.nan)


def _takes(scale: float) -> bool:
    return _SCALES[0] <= scale <= _SCALES[1]


class _Parts(NamedTuple):
    """Of the factors of queries, or of keys: (1 or batch, tokens, terms), in the dtype of q."""

    high: Tensor
    """Finite factors, rounded."""
    low: Tensor
    """What that took from them."""
    sign_gate: Tensor
    infinite_gate: Tensor
    sign: Tensor
    infinite: Tensor


class _Channels(NamedTuple):
    """Channels behind those of the tensors: (1 or batch, tokens, any), in their dtype."""

    of_queries: Tensor
    of_keys: Tensor
    of_values: Tensor
    query_gates: Tensor

    @classmethod
    def of(cls, query_bias: Tensor, key_bias: Tensor, scale: float, q: Tensor) -> _Channels:
        """Make them of factors, for queries like q."""
        # Factors of queries and keys as one tensor: half as many launches.
        rows, queries, dtype = max(len(query_bias), len(key_bias)), query_bias.shape[1], q.dtype
        both = torch.cat([t.expand(rows, -1, -1) for t in (query_bias, key_bias)], dim=1)
        unit = 2.0 ** max(0, math.ceil(-math.log2(scale)))  # scale * unit is 1 to 2, or the scale
        finite = both.nan_to_num(nan=math.nan, posinf=0.0, neginf=0.0)
        finite[:, :queries].mul_(unit)
        finite[:, queries:].mul_(1 / (scale * unit))
        limit = torch.finfo(dtype).max
        low = finite.clamp_(-limit, limit) - finite.to(dtype)
        gates = _gates(both)
        parts = torch.cat([finite, low, gates * _GATES.get(dtype, _GATE), gates], dim=2)
        each = parts.to(dtype).split(both.shape[2], dim=2)
        of_query = _Parts(*(part[:, :queries] for part in each))
        of_key = _Parts(*(part[:, queries:] for part in each))
        u = of_query.high.masked_fill(_meets_plus_infinity(gates, queries), math.nan)
        asks, answers = [u], [of_key.high]
        if dtype.itemsize < 4:
            asks, answers = [u, u, of_query.low], [of_key.high, of_key.low, of_key.high]
        asks += [of_query.sign_gate, of_query.infinite_gate]
        answers += [of_key.infinite_gate, of_key.sign_gate]
        count = len(asks) * both.shape[2]
        count += -(q.shape[3] + count) % _CHANNELS
        return cls(
            _side_by_side(asks, count),
            _side_by_side(answers, count),
            _side_by_side([of_key.infinite, of_key.sign], count),
            torch.cat([of_query.sign, of_query.infinite], dim=2),
        )

    def joined(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Copy tensors with their channels behind."""
        return _joined(q, self.of_queries), _joined(k, self.of_keys), _joined(v, self.of_values)


def _gates(bias: Tensor) -> Tensor:
    """Signs of factors, then those of infinite ones alone.

    A query's, times those of a key in the other order, are -1 where a product is minus infinity
    and 1 where it is plus infinity.
    """
    sign = bias.sign()
    return torch.cat([sign, sign * bias.isinf()], dim=2)


def _meets_plus_infinity(gates: Tensor, queries: int) -> Tensor:
    """Tell which queries do with any key: (1 or batch, queries, 1); their gates come first."""
    of_query, of_key = gates[:, :queries], gates[:, queries:].roll(gates.shape[2] // 2, dims=2)
    low, high = of_key.aminmax(dim=1, keepdim=True)
    products = torch.maximum(of_query * low, of_query * high)
    return products.amax(dim=2, keepdim=True) > 0


def _side_by_side(parts: list[Tensor], count: int) -> Tensor:
    """Join parts to so many channels, zeros the last."""
    channels = torch.cat(parts, dim=2)
    return F.pad(channels, (0, count - channels.shape[2]))


def _joined(tensor: Tensor, channels: Tensor) -> Tensor:
    """Copy (batch, heads, tokens, size) with channels (1 or batch, tokens, any) behind."""
    return torch.cat([tensor, channels[:, None].expand(*tensor.shape[:3], -1)], dim=3)
