# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Text attention plus any number of weighted, masked image branches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from attnpatch.ops import plain
from attnpatch.ops.attention import attention, repeat_heads
from attnpatch.ops.checks import checked
from attnpatch.ops.library import call, heads_are_beyond, register


def branch_attention_flat(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    branch_k: Sequence[Tensor],
    branch_v: Sequence[Tensor],
    branch_rows: Sequence[Tensor],
    weights: Tensor,
    masks: Tensor | None = None,
    shared_softmax: int = 0,
    scale: float | None = None,
) -> Tensor:
    """Attend to the text and to image branches in one pass over the queries.

    Computes, with row ``r = branch_rows[i][b]`` of each branch's keys and values, ::

        softmax(scale * q k) v + sum_i weights[i, b] * masks[i, b, n] * softmax(scale * q k_i) v_i

    Parameters
    ----------
    q : Tensor
        Queries (batch, heads, queries, head size); float32, float16 or bfloat16, any strides.
    k, v : Tensor
        The text's keys and values (batch, heads, tokens, head size). No tokens: no text term. Of as
        many heads as q, or of a divisor of them: neighbouring heads of q then have theirs in
        common.
    branch_k, branch_v : sequence of Tensor
        Each branch's keys and values (rows, heads of k, tokens, head size).
    branch_rows : sequence of Tensor
        int64 (batch,), one a branch: which row of its keys and values serves a row of the batch.
        Below 0: the branch is off for that row. One that is not there is an error on the CPU; on
        other devices, where nobody waits to look, it makes that row of the result not a number.
    weights : Tensor
        float32 (branches, batch).
    masks : Tensor, optional
        float32 (branches, 1 or batch, queries). Where weight or mask is 0 nothing of the branch
        arrives, whatever stands in its keys and values.
    shared_softmax : int
        How many branches, from the first, share the text's softmax: their exponentials, times
        weight and mask, enter its numerator and its sum. Weight times mask is at least 0 there:
        below it, or infinite, it makes the result of its queries not a number.
    scale : float, optional
        Finite; 1 / sqrt(head size) by default.

    Returns
    -------
    Tensor
        (batch, heads, queries, head size) in q's dtype, laid out in memory as (batch, queries,
        heads, head size), so that joining the heads is a view.

    Raises
    ------
    RuntimeError
        If shapes, dtypes or devices do not fit; the message names the argument.

    Notes
    -----
    Decoupled cross-attention: Ye et al. 2023, arXiv 2308.06721, equation 5.
    """
    return call(
        torch.ops.attnpatch.branch_attention.default,
        branch_attention_reference,
        *(
            q,
            k,
            v,
            list(branch_k),
            list(branch_v),
            list(branch_rows),
            weights,
            masks,
            shared_softmax,
            scale,
        ),
    )


@checked("branch_attention", wide=True)
def branch_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    branch_k: Sequence[Tensor],
    branch_v: Sequence[Tensor],
    branch_rows: Sequence[Tensor],
    weights: Tensor,
    masks: Tensor | None = None,
    shared_softmax: int = 0,
    scale: float | None = None,
) -> Tensor:
    """Compute :func:`branch_attention_flat` readably, on any device, differentiably."""
    if q.numel() == 0:
        return _heads_side_by_side(torch.empty_like(q))
    factors = [
        _factor(rows, weights[i], None if masks is None else masks[i], q)
        for i, rows in enumerate(branch_rows)
    ]
    out = torch.zeros(q.shape, dtype=_accumulator(q), device=q.device)
    k, v = repeat_heads(k, q.shape[1]), repeat_heads(v, q.shape[1])
    keys, values = (
        [
            repeat_heads(_rows_of(tensor, rows), q.shape[1])
            for tensor, rows in zip(tensors, branch_rows, strict=True)
        ]
        for tensors in (branch_k, branch_v)
    )
    if shared_softmax > 0:
        whole = torch.ones_like(factors[0].value), torch.zeros_like(factors[0].off)
        shares = [_Factor(*whole), *map(_share, factors[:shared_softmax])]
        out = out + _joint_attention(
            q, [k, *keys[:shared_softmax]], [v, *values[:shared_softmax]], shares, scale
        )
    elif k.shape[2] > 0:
        out = out + attention(q, k, v, scale)
    for i in range(shared_softmax, len(keys)):
        if keys[i].shape[2] > 0:
            term = attention(q, keys[i], values[i], scale)
            out = out + torch.where(factors[i].off, 0.0, factors[i].value * term)
    for tensor, rows in zip(branch_k, branch_rows, strict=True):
        # To be seen: who looks at the rows of a GPU waits for it.
        out = torch.where((rows >= tensor.shape[0])[:, None, None, None], torch.nan, out)
    return _heads_side_by_side(out.to(q.dtype))


class _Factor(NamedTuple):
    """Weight times mask of a branch, and where nothing of it arrives: (batch, 1, queries, 1)."""

    value: Tensor
    off: Tensor


def _accumulator(q: Tensor) -> torch.dtype:
    return torch.promote_types(q.dtype, torch.float32)


def _factor(rows: Tensor, weight: Tensor, mask: Tensor | None, q: Tensor) -> _Factor:
    weight = weight.to(_accumulator(q))[:, None, None, None].expand(-1, 1, q.shape[2], 1)
    mask = torch.ones_like(weight) if mask is None else mask.to(weight.dtype)[:, None, :, None]
    value = weight * mask
    off = (rows < 0)[:, None, None, None].expand_as(value)
    if not value.requires_grad:
        # A 0 that is to be learned is not off: its gradient is not 0.
        off = off | (weight == 0) | (mask == 0) | (value == 0)
    return _Factor(value, off)


def _share(factor: _Factor) -> _Factor:
    """Give the factor in a shared softmax: below 0 it is not a number."""
    return factor._replace(value=torch.where(factor.value < 0, torch.nan, factor.value))


def _rows_of(tensor: Tensor, rows: Tensor) -> Tensor:
    """Rows of keys or values; in place of those that are not there any that are, or zeros."""
    count = tensor.shape[0]
    if count == 0:
        return tensor.new_zeros((rows.shape[0], *tensor.shape[1:]))
    return tensor.index_select(0, rows.clamp(0, count - 1))


def _joint_attention(
    q: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    factors: Sequence[_Factor],
    scale: float | None,
) -> Tensor:
    """Attend to several groups in one softmax, the exponentials of each times its factor."""
    dtype = _accumulator(q)
    queries = q.to(dtype) * (q.shape[3] ** -0.5 if scale is None else scale)
    scores = [
        (queries @ k.to(dtype).mT).masked_fill(factor.off, -torch.inf)
        for k, factor in zip(keys, factors, strict=True)
    ]
    counting = [
        score.detach().masked_fill(factor.value == 0, -torch.inf)
        for score, factor in zip(scores, factors, strict=True)
    ]
    top = torch.cat(counting, dim=3).amax(dim=3, keepdim=True)
    # Only where a factor is 0 a score may be above the top: 0 times an infinity would be no number.
    exponentials = [
        (score - top).clamp(max=80.0).exp() * factor.value
        for score, factor in zip(scores, factors, strict=True)
    ]
    exponentials = [
        torch.where(factor.off, 0.0, e) for e, factor in zip(exponentials, factors, strict=True)
    ]
    terms = [
        torch.where(factor.off, 0.0, e @ v.to(dtype))
        for e, v, factor in zip(exponentials, values, factors, strict=True)
    ]
    sums = [e.sum(dim=3, keepdim=True) for e in exponentials]
    return sum(terms[1:], terms[0]) / sum(sums[1:], sums[0])


def _heads_side_by_side(out: Tensor) -> Tensor:
    """Lay out a result so that joining the heads is a view."""
    return out.transpose(1, 2).contiguous().transpose(1, 2)


def _fake(q: Tensor, *_: object) -> Tensor:
    batch, heads, queries, size = q.shape
    return q.new_empty((batch, queries, heads, size)).transpose(1, 2)


def _plain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    branch_k: Sequence[Tensor],
    branch_v: Sequence[Tensor],
    branch_rows: Sequence[Tensor],
    weights: Tensor,
    masks: Tensor | None = None,
    shared_softmax: int = 0,
    scale: float | None = None,
) -> Tensor:
    serves = shared_softmax == 0 or plain.has_lse(q)
    function = plain.branch_attention if serves else branch_attention_reference
    return function(q, k, v, branch_k, branch_v, branch_rows, weights, masks, shared_softmax, scale)


# Autocast casts the attention inputs, never the weights, rows and masks.
register(
    "branch_attention",
    branch_attention_reference,
    _plain,
    _fake,
    cast=(0, 1, 2, 3, 4),
    beyond=lambda limits, q, k, v, branch_k, *_: (
        heads_are_beyond(limits, q, k) or len(branch_k) > limits.branches
    ),
)
