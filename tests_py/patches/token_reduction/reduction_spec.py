# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Slothful and Near-sighted attention as their specification says it, in float64 and plain loops.

The specification is docs/design/token-reduction.md.
Every picture is one of the batch, and every query has its list of keys.
"""

import math
from dataclasses import dataclass

import torch

from attnpatch.patches import NearSightedTile, SlothfulAttention


@dataclass
class Where:
    """A layer and a call."""

    block: str
    depth: int
    rate: float
    grid: tuple
    timestep: float
    offset: tuple = (0, 0)


def ratio(patch, timestep):
    if patch.time_decay <= 0:
        return 1.0
    time = min(max(1 - timestep / 1000, 0), 1)
    return math.exp(-((time - patch.peak_time) ** 2) * patch.time_decay**2)


def lerp(a, b, t):
    return a * (1 - t) + b * t


def clamp(x, low, high):
    return max(low, min(high, x))


def pool(x, size, stride, mode, blend):
    """x: (h, w, C) -> list of (C)."""
    h, w, _ = x.shape
    if stride <= 1:
        return list(x.flatten(0, 1))
    if mode.startswith("1D"):
        x, steps, windows = (
            x.reshape(1, h * w, -1),
            (1, clamp(math.ceil(stride), 1, h * w)),
            (1, clamp(math.ceil(size), 1, h * w)),
        )
    else:
        steps, windows = sides(stride, h, w), sides(size, h, w)
    found = []
    for row in range(0, x.shape[0], steps[0]):
        for column in range(0, x.shape[1], steps[1]):
            window = x[row : row + windows[0], column : column + windows[1]]
            found.append(blended(x[row, column], window, mode, blend))
    return found


def blended(one, window, mode, blend):
    if blend == 0:
        return one
    far = window.mean((0, 1)) if mode.endswith("AVG") else window.amax((0, 1))
    return lerp(one, far, blend)


def sides(tokens, h, w):
    rows = max(1, math.ceil(math.sqrt(tokens)))
    return clamp(rows, 1, h), clamp(math.ceil(tokens / rows), 1, w)


def tiles(where, size):
    """Rectangles (top, bottom, left, right) of the tiles, the first reaching out by the offset."""
    counts = [math.ceil(length / size) for length in where.grid]
    lengths = [math.ceil(n / count) for n, count in zip(where.grid, counts, strict=True)]
    spans = [
        [(max(0, i * length - start), min(n, (i + 1) * length - start)) for i in range(count)]
        for n, count, length, start in zip(where.grid, counts, lengths, where.offset, strict=True)
    ]
    return [(*row, *column) for row in spans[0] for column in spans[1]]


def groups(patch, where, x, part):
    """List (queries, key inputs) for one picture (h, w, C); `part` 0: of keys, 1: of values."""
    h, w = where.grid
    everyone = list(range(h * w))
    if isinstance(patch, NearSightedTile):
        size, stride, share, mode, blend = patch.tile_size, 0, patch.global_ratio, "2D_AVG", 0.0
        can_tile = True
    else:
        side = "out" if where.block == "output" else "in"
        time = ratio(patch, where.timestep)
        decay = getattr(patch, f"{side}_depth_decay")
        stride = getattr(patch, f"{side}_slothful") * time * where.rate**decay
        mode = getattr(patch, f"{side}_mode")
        blend = getattr(patch, f"{side}_{'kv'[part]}_blend")
        can_tile = not isinstance(patch, SlothfulAttention)
        if can_tile:
            size = round(lerp(patch.base_tile_size, patch.peak_tile_size, time))
            share = lerp(patch.base_global_ratio, patch.peak_global_ratio, time)
    pooled = [(everyone, pool(x, stride, stride, mode, blend))]
    if isinstance(patch, SlothfulAttention) and where.block == "middle":
        return [(everyone, list(x.flatten(0, 1)))]
    if not can_tile or where.depth > 2 ** (patch.tiling_max_depth - 1):
        return pooled
    cut = tiles(where, size)
    if len(cut) == 1:
        return pooled
    shared = []
    if share > 0:
        shared = pool(x, stride, max(1, stride) * len(cut) / share, mode, blend)
    found = []
    for top, bottom, left, right in cut:
        queries = [r * w + c for r in range(top, bottom) for c in range(left, right)]
        # Strides are those of a whole tile, whatever the grid's end leaves of it.
        own = pool_in_tile(x[top:bottom, left:right], stride, mode, blend, where, size)
        found.append((queries, own + shared))
    gain = sum(len(q) * len(k) for q, k in found) < sum(len(q) * len(k) for q, k in pooled)
    return found if gain else pooled


def pool_in_tile(x, stride, mode, blend, where, size):
    if mode.startswith("1D") or stride <= 1:
        return pool(x, stride, stride, mode, blend)
    whole = [math.ceil(n / math.ceil(n / size)) for n in where.grid]
    rows, columns = sides(stride, *whole)
    found = []
    for row in range(0, x.shape[0], rows):
        for column in range(0, x.shape[1], columns):
            window = x[row : row + rows, column : column + columns]
            found.append(blended(x[row, column], window, mode, blend))
    return found


def attention(patch, where, x, weights, heads):
    """Self-attention of x (batch, tokens, channels) with weights (q, k, v), in float64."""
    x = x.double()
    w_q, w_k, w_v = (weight.double() for weight in weights)
    out = torch.zeros(x.shape[0], x.shape[1], w_v.shape[0], dtype=torch.float64)
    for b, picture in enumerate(x):
        field = picture.reshape(*where.grid, -1)
        pairs = zip(groups(patch, where, field, 0), groups(patch, where, field, 1), strict=True)
        for (queries, key_inputs), (_, value_inputs) in pairs:
            q = split(picture[queries] @ w_q.T, heads)
            k = split(torch.stack(key_inputs) @ w_k.T, heads)
            v = split(torch.stack(value_inputs) @ w_v.T, heads)
            weight = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
            out[b, queries] = (weight @ v).transpose(0, 1).flatten(1)
    return out


def split(tokens, heads):
    return tokens.unflatten(1, (heads, -1)).transpose(0, 1)
