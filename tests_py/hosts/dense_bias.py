# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What a key gain must give: the host's own model with a dense bias in its attention."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Gains = Callable[[int, int], tuple[Tensor, Tensor | None]]
"""For rows and queries: gains (batch, queries, keys), and factors of values alike, or None."""


def spans_of(order: list[tuple[str, int]]) -> dict[str, slice]:
    """Where each part of a sequence is."""
    found, start = {}, 0
    for name, count in order:
        found.setdefault(name, slice(start, start + count))
        start += count
    return found


@contextlib.contextmanager
def dense(queries: int | None, keys: int, gains: Gains) -> Iterator[list[int]]:
    """Run with these gains in all attention of so many queries (None: any) and keys.

    Yields the numbers of queries of the calls so far.
    """
    calls: list[int] = []
    original = F.scaled_dot_product_attention

    def attend(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, **options: Any
    ) -> Tensor:
        if queries not in (None, query.shape[2]) or key.shape[2] != keys:
            return original(query, key, value, attn_mask=attn_mask, **options)
        q, k, v = query, key, value
        calls.append(query.shape[2])
        factors, values = gains(len(q), query.shape[2])
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        scores = q.double() @ k.double().transpose(2, 3) / math.sqrt(q.shape[3])
        scores = scores + factors.double()[:, None].log()
        if attn_mask is not None:
            is_bool = attn_mask.dtype == torch.bool
            taken = torch.where(attn_mask, 0.0, -math.inf) if is_bool else attn_mask
            scores = scores + taken
        shares = scores.softmax(-1).nan_to_num(0.0)  # torch's too, where a mask takes all keys
        if values is not None:
            shares = shares * values.double()[:, None]
        return (shares @ v.double()).to(q.dtype)

    torch.nn.functional.scaled_dot_product_attention = attend  # type: ignore[assignment]
    try:
        yield calls
    finally:
        F.scaled_dot_product_attention = original  # type: ignore[assignment]
