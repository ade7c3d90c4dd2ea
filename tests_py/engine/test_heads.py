# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Channels as heads and back, whatever the layout."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnpatch.engine.heads import join_heads, split_heads

LAYOUTS = {
    "contiguous": lambda x: x,
    "part": lambda x: torch.cat([x, x], 2)[..., : x.shape[2]],
    "offset": lambda x: torch.cat([x, x])[len(x) :],
    "expanded": lambda x: x[:1].expand_as(x),
    "tokens first": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
}


@given(
    sizes=st.tuples(*[st.integers(0, 4)] * 2, *[st.integers(1, 4)] * 2),
    layout=st.sampled_from(sorted(LAYOUTS)),
    gradients=st.booleans(),
)
def test_heads_and_back(sizes, layout, gradients):
    rows, tokens, heads, size = sizes
    x = torch.arange(rows * tokens * heads * size, dtype=torch.float32)
    x = LAYOUTS[layout](x.reshape(rows, tokens, heads * size)).requires_grad_(gradients)
    found = split_heads(x, heads)
    assert found.shape == (rows, heads, tokens, size)
    for head in range(heads):
        assert torch.equal(found[:, head], x[:, :, head * size : (head + 1) * size])
    assert found.data_ptr() == x.data_ptr() and found.requires_grad == gradients
    assert torch.equal(join_heads(found), x)
    assert torch.equal(join_heads(found.contiguous()), x)


def test_joining_what_was_split_is_a_view():
    x = torch.rand(2, 5, 12)
    assert join_heads(split_heads(x, 3)).data_ptr() == x.data_ptr()


def test_heads_that_do_not_divide_are_an_error():
    with pytest.raises(ValueError, match="heads: 5 do not divide 12 channels"):
        split_heads(torch.rand(1, 2, 12), 5)
