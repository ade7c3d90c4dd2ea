# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Attention with a bias of low rank on its scores, and no tensor of queries by keys."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from attnpatch.ops import plain
from attnpatch.ops.attention import repeat_heads
from attnpatch.ops.checks import check_are_tensors, checked
from attnpatch.ops.library import call, heads_are_beyond, register, with_autocast

_CAST = (0, 1, 2)
"""Autocast casts q, k and v, never the biases."""


def biased_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_bias: Tensor | None = None,
    key_bias: Tensor | None = None,
    *,
    scale: float | None = None,
) -> Tensor:
    """Attend with a bias on the scores that is a sum of products: one factor a query, one a key.

    Computes, for query n and keys m, ::

        softmax(scale * q k^T + sum_r query_bias[n, r] * key_bias[m, r]) v      with 0 * inf = 0

    so that the logarithm of a gain on chosen keys for chosen queries costs a number a token, where
    a mask would cost one a pair of tokens.

    Parameters
    ----------
    q : Tensor
        Queries (batch, heads, queries, head size); float32, float16 or bfloat16, any strides.
    k, v : Tensor
        Keys and values (batch, heads, tokens, head size), of as many heads as q or of a divisor of
        them: neighbouring heads of q then have theirs in common.
    query_bias : Tensor, optional
        float32 (1 or batch, queries, terms), 0 to 16 terms.
    key_bias : Tensor, optional
        float32 (1 or batch, tokens, terms). Minus infinity takes a key away from all queries whose
        factor is above 0, and does nothing to those whose factor is 0; minus infinity in
        query_bias takes away the keys whose factor is above 0.
    scale : float, optional
        Finite; 1 / sqrt(head size) by default.

    Returns
    -------
    Tensor
        (batch, heads, queries, head size) in q's dtype, laid out in memory as (batch, queries,
        heads, head size), so that joining the heads is a view. Not a number for a query that all
        keys have left. Without terms (no biases, or biases of none) it is what
        ``torch.nn.functional.scaled_dot_product_attention`` gives, to the last bit.

    Raises
    ------
    TypeError
        If something stands where a tensor should.
    RuntimeError
        If shapes, dtypes or devices do not fit; the message names the argument.

    Notes
    -----
    A product that is plus infinity makes the result of its query not a number: infinite factors
    of equal signs, or plus infinity beside a factor above 0. A NaN in query_bias does so for its
    query, one in key_bias for all queries of its row.

    Devices without a kernel of ours compute it by :func:`attnpatch.ops.plain.padded`; gradients
    are those of the reference, which makes the whole bias.

    Examples
    --------
    Three of seven keys count twice for the first two queries, and one is gone for all:

    >>> import math, torch
    >>> from attnpatch.ops import biased_attention
    >>> q, k, v = torch.randn(1, 8, 5, 64), torch.randn(1, 8, 7, 64), torch.randn(1, 8, 7, 64)
    >>> query_bias, key_bias = torch.zeros(1, 5, 2), torch.zeros(1, 7, 2)
    >>> query_bias[:, :2, 0], key_bias[:, :3, 0] = 1.0, math.log(2.0)
    >>> query_bias[..., 1], key_bias[:, 6, 1] = 1.0, -math.inf
    >>> biased_attention(q, k, v, query_bias, key_bias).shape
    torch.Size([1, 8, 5, 64])
    """
    arguments = (q, k, v, query_bias, key_bias, scale)
    if _has_terms(query_bias) or _has_terms(key_bias):
        return call(_OPERATOR, biased_attention_reference, *arguments)
    if not torch.compiler.is_compiling():
        check_are_tensors(_OPERATOR, arguments)
    return with_autocast(_unbiased, frozenset(_CAST), arguments)


_OPERATOR = torch.ops.attnpatch.biased_attention.default


def _has_terms(bias: Tensor | None) -> bool:
    """Tell whether there is anything to add; what is no tensor is for the checks."""
    return bias is not None and not (isinstance(bias, Tensor) and bias.shape[-1:] == (0,))


@checked("biased_attention", wide=True)
def _unbiased(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_bias: Tensor | None,
    key_bias: Tensor | None,
    scale: float | None,
) -> Tensor:
    if q.shape[1] == k.shape[1]:
        return F.scaled_dot_product_attention(q, k, v, scale=scale)
    return F.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=True)


@checked("biased_attention", wide=True)
def biased_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_bias: Tensor | None = None,
    key_bias: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Compute :func:`biased_attention` readably, on any device, differentiably.

    The bias is made whole, (batch, queries, tokens). It has no gradient where it is infinite.
    """
    k, v = repeat_heads(k, q.shape[1]), repeat_heads(v, q.shape[1])
    dtype = torch.promote_types(q.dtype, torch.float32)
    scale = max(q.shape[3], 1) ** -0.5 if scale is None else scale
    scores = (q.to(dtype) * scale) @ k.to(dtype).mT
    if query_bias is not None and key_bias is not None:
        for i in range(query_bias.shape[2]):
            term = _product(query_bias[:, :, None, i], key_bias[:, None, :, i])
            scores = scores + term.to(dtype)[:, None]
    out = (scores.softmax(dim=3) @ v.to(dtype)).to(q.dtype)
    if k.shape[2] == 0:
        out = torch.full_like(out, torch.nan)
    return out.transpose(1, 2).contiguous().transpose(1, 2)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply, with 0 times infinity = 0; infinities are constants, for the gradients' sake."""
    finite = a.masked_fill(a.isinf(), 0) * b.masked_fill(b.isinf(), 0)
    sign = (a.sign() * b.sign()).detach()
    infinite = (a.isinf() | b.isinf()) & (sign != 0)
    return finite + torch.where(infinite, sign * torch.inf, 0.0)


def _fake(q: Tensor, *_: object) -> Tensor:
    batch, heads, queries, size = q.shape
    return q.new_empty((batch, queries, heads, size)).transpose(1, 2)


register(
    "biased_attention",
    biased_attention_reference,
    plain.biased_attention,
    _fake,
    cast=_CAST,
    beyond=lambda limits, q, k, *_: heads_are_beyond(limits, q, k),
)
