# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Calls on which kernels are tried: layers of SD1.5 and SDXL, and what is odd."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BATCH = 2
TEXT, IMAGE = 77, 16
_LAYERS = ((64, 8, 40), (32, 8, 80), (16, 8, 160), (64, 10, 64), (32, 20, 64), (16, 20, 64))
"""Side of the grid, heads, head size."""
_TRANSFORMERS = ((1, 1536, 24, 128), (1, 4608, 24, 128))
"""Rows, tokens of text and image, heads, head size: of Flux at 512 and at 1024 pixels."""
_HEAD_SIZES = (32, 40, 64, 80, 128, 160)
_QUERIES = (1, 15, 16, 17, 63, 64, 65)
_KEYS = (1, 4, 16, 77, 80, 81, 154, 257)


@dataclass(frozen=True)
class Problem:
    """Arguments of an operator.

    Attributes
    ----------
    arguments
        On the CPU, in the order of the operator's schema.
    real
        A model makes such calls: its speed counts. Else it is small, and its result does.
    """

    arguments: list[Any]
    real: bool


class _Draw:
    """Random tensors, the same in every run."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._generator = torch.Generator().manual_seed(0)

    def flat(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator).to(self.dtype)

    def heads(self, rows: int, tokens: int, heads: int, size: int) -> Tensor:
        """(rows, heads, tokens, size), laid out as hosts hand it over."""
        return self.flat(rows, tokens, heads * size).unflatten(2, (heads, size)).transpose(1, 2)


def _branches(
    draw: _Draw,
    queries: int,
    heads: int,
    size: int,
    text: int,
    images: tuple[int, ...],
    **other: Any,
) -> list[Any]:
    rows = 3
    branches = [[draw.heads(rows, m, heads, size) for m in images] for _ in "kv"]
    which = [torch.tensor([i % rows, (i + 1) % rows]) for i in range(len(images))]
    weights = torch.full((len(images), BATCH), 0.8)
    if other.get("off"):
        which[-1][0] = -1
        weights[0, 1] = 0.0
    masks = torch.rand(len(images), 1, queries) if other.get("masks") else None
    q, k, v = (draw.heads(BATCH, n, heads, size) for n in (queries, text, text))
    return [q, k, v, *branches, which, weights, masks, other.get("shared_softmax", 0), None]


def _branch_attention(draw: _Draw) -> Iterator[Problem]:
    for side, heads, size in _LAYERS:
        for text in (TEXT, 2 * TEXT):
            for other in ({}, {"masks": True}, {"shared_softmax": 1}):
                yield Problem(_branches(draw, side**2, heads, size, text, (IMAGE,), **other), True)
    for size in _HEAD_SIZES:
        for queries, keys in zip(_QUERIES, _KEYS, strict=False):
            yield Problem(_branches(draw, queries, 2, size, keys, (4, keys), off=True), False)
        yield Problem(
            _branches(draw, 70, 2, size, TEXT, (257, 100), masks=True, shared_softmax=1), False
        )
        yield Problem(_branches(draw, 33, 2, size, TEXT, (16,) * 12), False)


def _attention_column_mean(draw: _Draw) -> Iterator[Problem]:
    for side, heads, size in _LAYERS:
        yield Problem([draw.heads(BATCH, side**2, heads, size) for _ in "qkv"] + [[1], None], True)
    for size in _HEAD_SIZES:
        for queries, keys in zip(_QUERIES, _KEYS, strict=False):
            q, k, v = (draw.heads(BATCH, n, 2, size) for n in (queries, keys, keys))
            yield Problem([q, k, v, [1, 0], None], False)
        packed = draw.flat(BATCH, 133, 3, 2, size).permute(2, 0, 3, 1, 4)
        yield Problem([*packed, None, None], False)
        yield Problem([*packed, [0] * 70, None], False)


def _biases(rows: int, queries: int, keys: int, terms: int) -> list[Tensor]:
    """Logarithms of gains on the first half of the keys; the first key leaves every other query."""
    query_bias = torch.rand(1, queries, terms)
    key_bias = torch.linspace(-2, 2, terms).repeat(rows, keys, 1)
    key_bias[:, keys // 2 :] = 0
    query_bias[:, ::2, 0] = 0
    if keys > 1:
        key_bias[:, 0, 0] = -torch.inf
    return [query_bias, key_bias]


def _biased_attention(draw: _Draw) -> Iterator[Problem]:
    layers = [(BATCH, side**2, heads, size) for side, heads, size in _LAYERS]
    for rows, tokens, heads, size in (*layers, *_TRANSFORMERS):
        q, k, v = (draw.heads(rows, tokens, heads, size) for _ in "qkv")
        for terms in (1, 4):
            yield Problem([q, k, v, *_biases(rows, tokens, tokens, terms), None], True)
    for size in _HEAD_SIZES:
        for queries, keys in zip(_QUERIES, _KEYS, strict=False):
            q, k, v = (draw.heads(BATCH, n, 2, size) for n in (queries, keys, keys))
            yield Problem([q, k, v, *_biases(BATCH, queries, keys, 1 + keys % 5), None], False)


def _tile_attention(draw: _Draw) -> Iterator[Problem]:
    def problem(
        grid: tuple[int, int],
        tile: tuple[int, int],
        offset: tuple[int, int],
        heads: int,
        size: int,
        stride: tuple[int, ...],
        shared: int,
    ) -> list[Any]:
        from attnpatch.ops.tiling import Tiling

        own = Tiling(grid, tile, offset).pooled(stride)
        q, k, v = (draw.heads(BATCH, n, heads, size) for n in (grid[0] * grid[1], own, own))
        far = [draw.heads(BATCH, shared, heads, size) for _ in "kv"] if shared else [None, None]
        return [q, k, v, grid, tile, offset, stride, *far, None]

    stride: tuple[int, ...]
    for side, heads, size in _LAYERS:
        for stride, shared in (((), 0), ((), side**2 // 4), ((2, 2), side**2 // 4)):
            half = (side // 2, side // 2)
            yield Problem(problem((side, side), half, (0, 0), heads, size, stride, shared), True)
    for size in _HEAD_SIZES:
        for stride in ((), (2, 2), (3,)):
            yield Problem(problem((11, 13), (5, 6), (3, 2), 2, size, stride, 19), False)


def _pool_tokens(draw: _Draw) -> Iterator[Problem]:
    for side, heads, size in _LAYERS:
        grid = (side, side)
        for tile in (grid, (side // 2, side // 2)):
            for mode in ("avg", "max"):
                x = draw.flat(BATCH, side**2, heads * size)
                yield Problem([x, grid, tile, (0, 0), (2, 2), (2, 2), mode, [1.0]], True)
    for channels in (1, 7, 8, 40):
        for mode in ("avg", "max"):
            x = draw.flat(BATCH, 143, channels)
            blends = [0.0, 0.3, 1.0, 0.5, 0.9]
            yield Problem([x, (11, 13), (5, 6), (3, 2), (3, 2), (2, 2), mode, blends], False)
            yield Problem([x, (11, 13), (11, 13), (0, 0), (4,), (3,), mode, [0.3]], False)


def _blur_and_blend(draw: _Draw) -> Iterator[Problem]:
    for side in (64, 96, 128):
        saliency = 2 * torch.rand(BATCH, side // 8, side // 8)
        yield Problem([draw.flat(BATCH, 4, side, side), saliency, 2.0, 1.0, 9], True)
    for kernel_size, sigma in ((1, 1.0), (9, 0.0), (9, 1.3), (33, 5.0)):
        saliency = 2 * torch.rand(BATCH, 3, 5)
        yield Problem([draw.flat(BATCH, 3, 37, 45), saliency, sigma, 1.0, kernel_size], False)


_MAKERS: dict[str, Callable[[_Draw], Iterator[Problem]]] = {
    "attention_column_mean": _attention_column_mean,
    "biased_attention": _biased_attention,
    "blur_and_blend": _blur_and_blend,
    "branch_attention": _branch_attention,
    "pool_tokens": _pool_tokens,
    "tile_attention": _tile_attention,
}


def problems(operator: str, dtype: torch.dtype) -> Iterator[Problem]:
    """Give the calls on which an operator's kernels are tried.

    Parameters
    ----------
    operator
        Its name.
    dtype
        Of its first argument.
    """
    return _MAKERS[operator](_Draw(dtype))
