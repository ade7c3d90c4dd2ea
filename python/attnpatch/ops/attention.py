# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The attention that the references are made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def repeat_heads(tensor: Tensor, heads: int) -> Tensor:
    """Repeat each head of keys or values (batch, heads, tokens, head size) for those it serves."""
    if tensor.shape[1] == heads:
        return tensor
    return tensor.repeat_interleave(heads // tensor.shape[1], dim=1)


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """Attend with torch's kernels, to keys of as many heads or fewer, and lose no NaN.

    To a query none of whose scores is a number above -inf, torch gives zeros on some devices, as if
    a mask had taken all keys away. No mask does here: what is not finite came in q or k.
    """
    if q.shape[1] == 0:  # torch 2.10 divides by the number of heads
        return q.new_empty((*q.shape[:3], v.shape[3]))
    k, v = repeat_heads(k, q.shape[1]), repeat_heads(v, q.shape[1])
    out = F.scaled_dot_product_attention(q, k, v, scale=scale)
    has_key = k.isfinite().all(dim=3).any(dim=2)[:, :, None, None]
    return torch.where(q.isfinite().all(dim=3, keepdim=True) & has_key, out, torch.nan)
