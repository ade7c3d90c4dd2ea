# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Heads of queries that have their keys and values in common."""

import pytest
import torch
from calls import CALLS, changed, operator, outcome, random, tensors_of
from everywhere import BOUNDS, assert_same, check_everywhere

from attnpatch import ops


def heads_of(tensor, heads):
    """Keys or values with other heads."""
    return random(tensor.shape[0], heads, *tensor.shape[2:], seed=heads).to(tensor.dtype)


def repeated(tensor, group):
    return tensor.repeat_interleave(group, dim=1)


KEYS_VALUES = {
    "branch_attention": [1, 2, (3, 0), (3, 1), (4, 0), (4, 1)],
    "attention_column_mean": [1, 2],
    "tile_attention": [1, 2, 7, 8],
}
"""Where each operator has keys and values."""


@pytest.mark.parametrize("kv_heads", [1, 2, 3])
@pytest.mark.parametrize("name", KEYS_VALUES)
def test_heads_in_groups_have_their_keys_in_common(name, kv_heads):
    """As if each head had its own copy of them."""
    arguments = changed(CALLS[name](), 0, heads_of(CALLS[name]()[0], 6))
    own = arguments
    for place in KEYS_VALUES[name]:
        tensor = arguments[place] if isinstance(place, int) else arguments[place[0]][place[1]]
        few = heads_of(tensor, kv_heads)
        arguments = changed(arguments, place, few)
        own = changed(own, place, repeated(few, 6 // kv_heads))
    assert_same(outcome(operator(name), arguments), tensors_of(operator(name)(*own)))
    check_everywhere(name, arguments)


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_gradients_of_keys_that_heads_have_in_common_add_up(dtype):
    q, k, v = (random(2, n, 5, 8, seed=n).to(dtype).requires_grad_() for n in (6, 2, 2))
    ops.attention_column_mean(q, k, v)[0].sum().backward()
    copies = [repeated(t.detach(), 3).requires_grad_() for t in (k, v)]
    ops.attention_column_mean(q.detach(), *copies)[0].sum().backward()
    for few, own in zip((k, v), copies, strict=True):
        total = own.grad.float().unflatten(1, (2, 3)).sum(dim=2)
        bound = 4 * BOUNDS[dtype]
        torch.testing.assert_close(few.grad.float(), total, rtol=bound, atol=bound)
