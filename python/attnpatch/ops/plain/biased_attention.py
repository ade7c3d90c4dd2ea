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
    out = attend(*padded(q, k, v, query_bias, key_bias, scale), scale)
    return unpadded(out, query_bias, size).to(dtype)


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
    unit = 2.0 ** max(0, math.ceil(-math.log2(scale)))  # scale * unit is 1 to 2, or the scale
    u, w = _finite(query_bias, unit, q.dtype), _finite(key_bias, 1 / (scale * unit), q.dtype)
    query_gates, key_gates = _query_gates(query_bias), _key_gates(key_bias)
    if key_gates.shape[1] > 0:
        u = u.masked_fill(_meets_plus_infinity(query_gates, key_gates), math.nan)
    gate = _GATES.get(q.dtype, _GATE)
    of_query, of_key = [u], [w]
    if q.dtype.itemsize < 4:
        u_high, w_high = u.to(q.dtype), w.to(q.dtype)
        of_query, of_key = [u_high, u_high, u - u_high], [w_high, w - w_high, w_high]
    count = sum(part.shape[2] for part in of_query) + query_gates.shape[2]
    count += -(q.shape[3] + count) % _CHANNELS
    return (
        _joined(q, [*of_query, query_gates * gate], count),
        _joined(k, [*of_key, key_gates * gate], count),
        _joined(v, [key_gates], count),
    )


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
    gates = _query_gates(query_bias).to(out.dtype)[:, None]
    # These channels of the values say which gates a key has. One that stays has none of the
    # query's; one that leaves has, and a weight of 0, unless all leave.
    met = (out[..., head_size : head_size + gates.shape[3]] * gates).sum(dim=3, keepdim=True)
    result = heads_in_rows(out[..., :head_size])
    return result.masked_fill_(met < -0.5, math.nan)


def _takes(scale: float) -> bool:
    return _SCALES[0] <= scale <= _SCALES[1]


def _finite(bias: Tensor, factor: float, dtype: torch.dtype) -> Tensor:
    """Multiply what is no infinity, up to what the dtype holds; a NaN stays one."""
    limit = torch.finfo(dtype).max
    return bias.masked_fill(bias.isinf(), 0).mul_(factor).clamp_(-limit, limit)


def _query_gates(bias: Tensor) -> Tensor:
    """Signs that, times those of a key, are -1 where a product is minus infinity, 1 where plus."""
    sign = bias.sign()
    return torch.cat([sign, sign * bias.isinf()], dim=2)


def _key_gates(bias: Tensor) -> Tensor:
    sign = bias.sign()
    return torch.cat([sign * bias.isinf(), sign], dim=2)


def _meets_plus_infinity(query_gates: Tensor, key_gates: Tensor) -> Tensor:
    """Tell which queries do with any key: (1 or batch, queries, 1)."""
    low, high = key_gates.aminmax(dim=1, keepdim=True)
    products = torch.maximum(query_gates * low, query_gates * high)
    return products.amax(dim=2, keepdim=True) > 0


def _joined(tensor: Tensor, parts: list[Tensor], count: int) -> Tensor:
    """Copy (batch, heads, tokens, size) with so many channels, the first of them these, behind.

    `parts` are (1 or batch, tokens, any), for all heads.
    """
    rows = max(map(len, parts))
    channels = torch.cat([part.expand(rows, -1, -1) for part in parts], dim=2).to(tensor.dtype)
    channels = F.pad(channels, (0, count - channels.shape[2]))[:, None]
    return torch.cat([tensor, channels.expand(*tensor.shape[:3], -1)], dim=3)
