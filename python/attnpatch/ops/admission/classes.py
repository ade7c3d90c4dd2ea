# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Calls that one kernel serves in one way: what a verdict speaks of.

A class names the instance of the kernel (head size), its path (memory layout, keys of a grid or
pooled, a record or none) and how many tokens there are, in words that a person reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

OPERATORS = (
    "attention_column_mean",
    "biased_attention",
    "blur_and_blend",
    "branch_attention",
    "pool_tokens",
    "tile_attention",
)

_HEAD_SIZES = (32, 48, 64, 80, 128, 160)
_TOKENS = (256, 1024, 4096)
_BRANCH_KEYS = (96, 256)


def class_of(operator: str, arguments: Sequence[Any]) -> str:
    """Name the class of a call.

    Parameters
    ----------
    operator : str
        One of `OPERATORS`.
    arguments : sequence
        The operator's, in the order of its schema.
    """
    return ", ".join(_PARTS[operator](*arguments))


def _up_to(value: int, bounds: Sequence[int]) -> str:
    for bound in bounds:
        if value <= bound:
            return f"<={bound}"
    return f">{bounds[-1]}"


def _layout(*tensors: Tensor) -> str:
    """Whether rows can be read by 16 bytes, as the fast ways of kernels need it."""
    for tensor in tensors:
        *strides, last = tensor.stride()
        values = 16 // tensor.element_size()
        if last != 1 or any(stride % values for stride in strides):
            return "any layout"
    return "rows"


def _attention(q: Tensor, k: Tensor, *others: Tensor) -> list[str]:
    return [
        f"heads {_up_to(q.shape[3], _HEAD_SIZES)}",
        *(["heads in groups"] if k.shape[1] != q.shape[1] else []),
        _layout(q, k, *others),
        f"queries {_up_to(q.shape[2], _TOKENS)}",
    ]


def _branch_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    branch_k: Sequence[Tensor],
    branch_v: Sequence[Tensor],
    rows: Sequence[Tensor],
    weights: Tensor,
    masks: Tensor | None = None,
    shared_softmax: int = 0,
    *_: Any,
) -> list[str]:
    keys = k.shape[2] + sum(branch.shape[2] for branch in branch_k)
    return [
        *_attention(q, k, v, *branch_k, *branch_v),
        f"keys {_up_to(keys, _BRANCH_KEYS)}",
        "one softmax" if shared_softmax > 0 else "separate",
        *(["masks"] if masks is not None else []),
    ]


def _biased_attention(
    q: Tensor, k: Tensor, v: Tensor, query_bias: Tensor | None = None, *_: Any
) -> list[str]:
    terms = 0 if query_bias is None else query_bias.shape[2]
    return [
        *_attention(q, k, v),
        f"keys {_up_to(k.shape[2], _TOKENS)}",
        f"terms {_up_to(terms, (2, 16))}",
    ]


def _attention_column_mean(
    q: Tensor, k: Tensor, v: Tensor, rows: Sequence[int] | None = None, *_: Any
) -> list[str]:
    return [*_attention(q, k, v), "recorded" if rows is None or len(rows) > 0 else "not recorded"]


def _tile_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grid: Sequence[int],
    tile: Sequence[int],
    offset: Sequence[int],
    stride: Sequence[int],
    shared_k: Tensor | None = None,
    *_: Any,
) -> list[str]:
    return [
        *_attention(q, k, v),
        "pooled keys" if len(stride) > 0 else "keys of the grid",
        "alone" if shared_k is None else "shared keys",
    ]


def _pool_tokens(
    x: Tensor,
    grid: Sequence[int],
    tile: Sequence[int],
    offset: Sequence[int],
    window: Sequence[int],
    stride: Sequence[int],
    mode: str,
    *_: Any,
) -> list[str]:
    tiles = "tiles" if tile[0] < grid[0] or tile[1] < grid[1] else "the grid"
    return [_layout(x), f"tokens {_up_to(x.shape[1], _TOKENS)}", tiles, mode]


def _blur_and_blend(x0: Tensor, *_: Any) -> list[str]:
    pixels = x0.shape[2] * x0.shape[3]
    return [f"pixels {_up_to(pixels, (4096, 16384, 1 << 20))}"]


_PARTS: dict[str, Callable[..., list[str]]] = {
    "attention_column_mean": _attention_column_mean,
    "biased_attention": _biased_attention,
    "blur_and_blend": _blur_and_blend,
    "branch_attention": _branch_attention,
    "pool_tokens": _pool_tokens,
    "tile_attention": _tile_attention,
}
