# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Small good calls of every operator, and what comes of a call that may be a bad one."""

import torch

from attnpatch import ops
from attnpatch.ops.branch_attention import branch_attention_flat

GRID = (3, 4)
TILING = ops.Tiling(GRID, (2, 3), (1, 0))


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def branch_attention():
    q, k, v = random(2, 3, 5, 8), random(2, 3, 4, 8, seed=1), random(2, 3, 4, 8, seed=2)
    branch_k = [random(3, 3, n, 8, seed=n) for n in (2, 6)]
    branch_v = [random(3, 3, n, 8, seed=9 + n) for n in (2, 6)]
    rows = [torch.tensor([2, 0]), torch.tensor([-1, 1])]
    weights = torch.tensor([[0.5, 2.0], [1.0, 0.0]])
    masks = random(2, 2, 5, seed=3).clamp(min=0)
    return [q, k, v, branch_k, branch_v, rows, weights, masks, 1, None]


def attention_column_mean():
    q, k, v = random(2, 3, 5, 8), random(2, 3, 4, 8, seed=1), random(2, 3, 4, 8, seed=2)
    return [q, k, v, [1, 0], None]


def biased_attention():
    q, k, v = random(2, 3, 5, 8), random(2, 3, 4, 8, seed=1), random(2, 3, 4, 8, seed=2)
    return [q, k, v, random(1, 5, 2, seed=3), random(2, 4, 2, seed=4), None]


def pool_tokens():
    tiles = (TILING.grid, TILING.tile, TILING.offset)
    return [random(2, 12, 5), *tiles, (2, 1), (2, 2), "avg", [0.0, 0.5, 1.0]]


def tile_attention():
    q, tokens = random(2, 3, 12, 8), TILING.pooled((2, 1))
    own = [random(2, 3, tokens, 8, seed=1), random(2, 3, tokens, 8, seed=2)]
    shared = [random(2, 3, 3, 8, seed=3), random(2, 3, 3, 8, seed=4)]
    return [q, *own, TILING.grid, TILING.tile, TILING.offset, (2, 1), *shared, None]


def blur_and_blend():
    return [random(2, 3, 6, 7), random(2, 2, 3, seed=1), 1.5, 0.0, 3]


CALLS = {
    function.__name__: function
    for function in (
        attention_column_mean,
        biased_attention,
        blur_and_blend,
        branch_attention,
        pool_tokens,
        tile_attention,
    )
}


def operator(name):
    return getattr(torch.ops.attnpatch, name).default


def public(name):
    """The function over an operator that takes the same arguments."""
    if name == "attention_column_mean":
        return lambda q, k, v, rows, scale: ops.attention_column_mean(q, k, v, rows, scale=scale)
    if name == "biased_attention":
        return lambda *arguments: ops.biased_attention(*arguments[:-1], scale=arguments[-1])
    return branch_attention_flat if name == "branch_attention" else getattr(ops, name)


def reference(name):
    return getattr(ops, f"{name}_reference")


def changed(arguments, place, value):
    """The same arguments with another one at a place, which may be one in a list."""
    arguments = [list(item) if isinstance(item, list) else item for item in arguments]
    if isinstance(place, tuple):
        arguments[place[0]][place[1]] = value
    else:
        arguments[place] = value
    return arguments


def mapped(value, function):
    """Arguments with every tensor changed."""
    if isinstance(value, list):
        return [mapped(item, function) for item in value]
    return function(value) if isinstance(value, torch.Tensor) else value


def tensors_of(value):
    """The tensors in results or arguments, one after another."""
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in tensors_of(item)]
    return [value] if isinstance(value, torch.Tensor) else []


def outcome(function, arguments):
    """A call's error as its type and text; or the results as a list."""
    try:
        return tensors_of(function(*arguments))
    except Exception as error:
        return type(error), str(error)
