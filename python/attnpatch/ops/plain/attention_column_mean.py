# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
r"""Attention and the column means of its map, as two attentions and no map.

With L[n] the log-sum-exp of query n, the sum of column m is ::

    sum_n exp(s q_n·k_m - L[n]) = exp(logsumexp_n(s [q_n, -L[n] / s] · [k_m, 1]))

the log-sum-exp of an attention in which keys ask and queries, with a few more channels, answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from attnpatch.ops.attention import repeat_heads
from attnpatch.ops.plain.attention import (
    alone,
    attend,
    attention_with_lse,
    heads_in_rows,
    no_attention,
    scale_of,
)

_PARTS = {torch.float16: 3, torch.bfloat16: 3}
"""Channels that L is split into, so that it keeps its 24 bits; one in float32."""

_CHANNELS = 8
"""The kernels take head sizes that are multiples of it in 16-bit types."""

_LEAST_SCALE = 2.0**-12
"""Below it -L / scale would leave the range of float16."""


def takes_scale(q: Tensor, scale: float | None) -> bool:
    """Whether :func:`attention_column_mean` is exact with this scale."""
    return scale_of(q, scale) >= _LEAST_SCALE


def attention_column_mean(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Sequence[int] | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute :func:`attnpatch.ops.attention_column_mean`; ``has_lse(q)`` must hold."""
    scale = scale_of(q, scale)
    batch, heads, _, size = q.shape
    keys = k.shape[2]
    rows = range(batch) if rows is None else rows
    sums_dtype = torch.promote_types(q.dtype, torch.float32)
    if q.numel() == 0 or keys == 0:
        return no_attention(q), q.new_zeros((len(rows), keys), dtype=sums_dtype)
    if len(rows) == 0:
        out = attend(q, k, v, scale)
        return heads_in_rows(out), q.new_empty((0, keys), dtype=sums_dtype)
    k = repeat_heads(k, heads)
    out, lse = attention_with_lse(q, k, v, scale)
    out = alone(out, lse)
    asked, asking, lse = _rows_of(q, rows), _rows_of(k, rows), _rows_of(lse, rows)
    unit = 2.0 ** max(0, math.ceil(-math.log2(scale)))  # scale * unit is 1 to 2
    rest = lse * (-1 / (scale * unit))
    parts = _PARTS.get(q.dtype, 1)
    answers = _widened(asked, parts)
    for part in range(parts):
        channel = answers[..., size + part]
        channel.copy_(rest)
        if part + 1 < parts:
            rest = rest - channel
    asks = _widened(asking, parts)
    asks[..., size : size + parts].fill_(unit)
    _, column_lse = attention_with_lse(asks, answers, answers, scale)
    column_mean = column_lse.exp_().mean(dim=1)
    # A query whose log-sum-exp is not finite makes NaNs of all columns: 0 times it is one.
    return heads_in_rows(out), column_mean.add_(lse.sum(dim=(1, 2))[:, None], alpha=0)


def _rows_of(tensor: Tensor, rows: Sequence[int]) -> Tensor:
    """Take rows of a batch, as a view where they are neighbours; nothing waits for a device."""
    first = rows[0]
    if list(rows) == list(range(first, first + len(rows))):
        return tensor[first : first + len(rows)]
    return torch.cat([tensor[row : row + 1] for row in rows])


def _widened(tensor: Tensor, parts: int) -> Tensor:
    """Copy (R, H, N, D) with at least so many channels of zeros more."""
    more = parts + -(tensor.shape[3] + parts) % _CHANNELS
    return F.pad(tensor, (0, more))
