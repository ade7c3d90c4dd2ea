# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Attention, and how much of it each key receives: the column means of a map that is never made."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attnpatch.ops import plain
from attnpatch.ops.attention import attention, repeat_heads
from attnpatch.ops.checks import checked
from attnpatch.ops.library import call, heads_are_beyond, register

_SCORES_AT_ONCE = 1 << 24


def attention_column_mean(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Sequence[int] | None = None,
    *,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Attend, and sum the map's columns, averaged over the heads, without making the map.

    Computes, with ``p = softmax(scale * q k)`` over the keys, ::

        out[b, h, n] = sum_m p[b, h, n, m] v[b, h, m]
        column_mean[r, m] = sum_n mean_h p[rows[r], h, n, m]

    A map that spreads evenly over as many keys as there are queries has a column mean of 1
    everywhere. Memory grows with the tokens, never with their square.

    Parameters
    ----------
    q : Tensor
        Queries (batch, heads, queries, head size); float32, float16 or bfloat16, any strides.
    k, v : Tensor
        Keys and values (batch, heads, tokens, head size); of as many heads as q, or of a divisor of
        them: neighbouring heads of q then have theirs in common.
    rows : sequence of int, optional
        The rows of the batch whose column means are wanted, each from 0 to batch - 1; all by
        default. The others get plain attention.
    scale : float, optional
        Finite; 1 / sqrt(head size) by default.

    Returns
    -------
    out : Tensor
        (batch, heads, queries, head size) in q's dtype, laid out in memory as (batch, queries,
        heads, head size), so that joining the heads is a view.
    column_mean : Tensor
        float32 (rows, tokens).

    Raises
    ------
    RuntimeError
        If shapes, dtypes, devices or rows do not fit; the message names the argument.

    Notes
    -----
    What self-attention guidance records: Hong et al. 2023, arXiv 2210.00939, section 4.2.

    Examples
    --------
    >>> import torch
    >>> from attnpatch.ops import attention_column_mean
    >>> q = k = v = torch.randn(2, 8, 64, 40)  # batch, heads, tokens, head size
    >>> out, column_mean = attention_column_mean(q, k, v, rows=[1])
    >>> out.shape, column_mean.shape
    (torch.Size([2, 8, 64, 40]), torch.Size([1, 64]))
    >>> round(column_mean.mean().item(), 4)
    1.0
    """
    return call(
        torch.ops.attnpatch.attention_column_mean.default,
        attention_column_mean_reference,
        *(q, k, v, None if rows is None else list(rows), scale),
    )


@checked("attention_column_mean", wide=True)
def attention_column_mean_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Sequence[int] | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute :func:`attention_column_mean` readably, on any device, differentiably.

    The map is made in parts of some queries each, once more beside the attention itself.
    """
    batch, heads, _, size = q.shape
    tokens = k.shape[2]
    k, v = repeat_heads(k, heads), repeat_heads(v, heads)
    if scale is None:
        scale = max(size, 1) ** -0.5
    accumulator = torch.promote_types(q.dtype, torch.float32)
    queries_at_once = max(1, _SCORES_AT_ONCE // max(1, heads * tokens))

    def column_mean(row: int) -> Tensor:
        keys = k[row].to(accumulator).transpose(1, 2)
        total = torch.zeros(tokens, dtype=accumulator, device=q.device)
        for queries in q[row].split(queries_at_once, dim=1):
            scores = (queries.to(accumulator) * scale) @ keys
            total = total + scores.softmax(dim=2).sum(dim=(0, 1))
        return total / max(heads, 1)

    means = [column_mean(row) for row in (range(batch) if rows is None else rows)]
    column_means = torch.stack(means) if means else q.new_empty((0, tokens), dtype=accumulator)
    out = torch.zeros_like(q) if tokens == 0 else attention(q, k, v, scale)
    # Joining the heads of the result is a view.
    return out.transpose(1, 2).contiguous().transpose(1, 2), column_means


def _fake(
    q: Tensor, k: Tensor, v: Tensor, rows: list[int] | None = None, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    batch, heads, queries, size = q.shape
    out = q.new_empty((batch, queries, heads, size)).transpose(1, 2)
    recorded = batch if rows is None else len(rows)
    accumulator = torch.promote_types(q.dtype, torch.float32)
    return out, q.new_empty((recorded, k.shape[2]), dtype=accumulator)


def _plain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Sequence[int] | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    serves = q.shape[3] > 0 and plain.has_lse(q) and plain.takes_scale(q, scale)
    function = plain.attention_column_mean if serves else attention_column_mean_reference
    return function(q, k, v, rows, scale)


register(
    "attention_column_mean",
    attention_column_mean_reference,
    _plain,
    _fake,
    cast=(0, 1, 2),
    beyond=lambda limits, q, k, *_: heads_are_beyond(limits, q, k),
)
