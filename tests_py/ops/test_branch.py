# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Branches as values: they become the operator's lists, and say themselves what does not fit."""

import doctest
import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_branch_attention import formula, make_inputs

from attnpatch.ops import Branch, branch_attention


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)
@given(
    shared=st.lists(st.booleans(), max_size=3),
    mask_rows=st.lists(st.sampled_from([None, 0, 1, 2]), min_size=3, max_size=3),
    scale=st.sampled_from([None, 0.3]),
)
def test_equals_the_formula(shared, mask_rows, scale):
    count = len(shared)
    inputs = make_inputs(branches=(4, 5, 6)[:count], queries=9, size=8)
    q, k, v, branch_k, branch_v, rows, weights = inputs
    given_masks = [
        None if n is None else random(*([n] if n else []), 9, seed=i)
        for i, n in enumerate(mask_rows[:count])
    ]
    whole = [torch.ones(9) if mask is None else mask for mask in given_masks]
    masks = torch.stack([mask.expand(2, 9) for mask in whole]) if count else None
    branches = [
        Branch(bk, bv, weight, row, mask, share)
        for bk, bv, weight, row, mask, share in zip(
            branch_k, branch_v, weights, rows, given_masks, shared, strict=True
        )
    ]
    found = branch_attention(q, k, v, branches, scale=scale)
    order = sorted(range(count), key=lambda i: not shared[i])
    lists = [[part[i] for i in order] for part in (branch_k, branch_v, rows)]
    factor = 1.0 if scale is None else scale * q.shape[3] ** 0.5
    expected = formula(
        [q * factor, k, v, *lists, weights[order]],
        None if masks is None else masks[order],
        sum(shared),
    )
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


def test_what_is_left_out():
    q, k, v, (image,), (value,), *_ = make_inputs(branches=(4,))
    one, both = slice(1), slice(2)
    zeros, each = torch.tensor([0, 0]), torch.tensor([0, 1])
    for part, rows in ((one, zeros), (both, each)):
        found = branch_attention(q, k, v, [Branch(image[part], value[part])])
        whole = Branch(image[part], value[part], torch.ones(2), rows, torch.ones(37))
        torch.testing.assert_close(found, branch_attention(q, k, v, [whole]))
    for weight in ([0.5, 0.25], (0.5, 0.25), torch.tensor([0.5, 0.25], dtype=torch.float64)):
        off = Branch(image, value, weight, [2, -1])
        found = branch_attention(q, k, v, [off])
        assert not torch.allclose(found[0], branch_attention(q, k, v)[0])
        torch.testing.assert_close(found[1], branch_attention(q, k, v)[1])
    half = torch.arange(37) < 20
    found = branch_attention(q, k, v, [Branch(image[both], value[both], mask=half)])
    torch.testing.assert_close(found[:, :, 20:], branch_attention(q, k, v)[:, :, 20:])


def test_gradients_reach_weights_and_masks():
    q, k, v, (image,), (value,), *_ = make_inputs(branches=(4,), size=8)
    weight = torch.tensor([0.5, 1.0], requires_grad=True)
    mask = random(37).requires_grad_()
    branch = Branch(image[:1], value[:1], weight, mask=mask)
    branch_attention(q, k, v, [branch]).square().sum().backward()
    assert weight.grad.abs().min() > 0 and mask.grad.abs().sum() > 0


@pytest.mark.slow
def test_compiles_into_one_graph():
    q, k, v, (image,), (value,), *_ = make_inputs(branches=(4,))

    def attend(q):
        return branch_attention(q, k, v, [Branch(image[:1], value[:1], 0.5)], scale=0.2)

    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(q), attend(q))


BAD = [
    ({"k": random(1, 3, 4, 41)}, ValueError, r"k: expected \(rows, 3, tokens, 40\), got \(1, 3"),
    ({"k": random(3, 4, 40)}, ValueError, r"k: expected \(rows, 3, tokens, 40\), got \(3, 4, 40"),
    ({"v": random(1, 3, 5, 40)}, ValueError, r"v: expected \(3, 3, 4, 40\) as k, got \(1, 3, 5"),
    ({"v": None}, TypeError, "v: expected a tensor, got NoneType"),
    ({"weight": [1.0, 2.0, 3.0]}, ValueError, r"weight: expected a number or \(2,\), got \(3,\)"),
    ({"rows": None}, ValueError, "rows: expected a row for each .* 2, since k has 3, got None"),
    ({"rows": [0]}, ValueError, r"rows: expected integers \(2,\), got \(1,\)"),
    ({"rows": [0.0, 1.0]}, ValueError, r"rows: expected integers \(2,\), got .* torch.float32"),
    ({"mask": random(3, 37)}, ValueError, r"mask: expected \(37,\) or \(1 or 2, 37\), got \(3, 37"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
@pytest.mark.parametrize("after", [False, True])
def test_what_does_not_fit_is_named(change, error, message, after):
    q, k, v, (image, _), (value, _), *_ = make_inputs(branches=(4, 4))
    good = {"k": image, "v": value, "rows": [0, 1]}
    # In a shared softmax it comes first for the operator, but keeps its name.
    branches = [Branch(**good)] * after + [Branch(**(good | change), shared_softmax=after)]
    with pytest.raises(error, match=rf"^branches\[{int(after)}\]\.{message}"):
        branch_attention(q, k, v, branches)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_is_no_attention_input_is_named_before_branches(place):
    tensors = [torch.randn(2, 3, 5, 8) for _ in range(3)]
    branches = [Branch(tensors[0], tensors[0])]
    name = "qkv"[place]
    for value, error, message in (
        (None, TypeError, f"^{name}: expected a tensor, got NoneType"),
        (torch.ones(3, 5, 8), RuntimeError, rf"^{name}: expected \(batch, .* got \(3, 5, 8\)"),
    ):
        with pytest.raises(error, match=message):
            branch_attention(*tensors[:place], value, *tensors[place + 1 :], branches)


def test_no_branch():
    q, k, v, *_ = make_inputs()
    with pytest.raises(TypeError, match=r"^branches\[0\]: expected a Branch, got Tensor"):
        branch_attention(q, k, v, [k])
    with pytest.raises(TypeError, match=r"^branches: expected a list of Branch, got one without"):
        branch_attention(q, k, v, Branch(k, v))
    with pytest.raises(TypeError, match="positional"):
        branch_attention(q, k, v, [], 0.5)


EXAMPLES = ["attention_column_mean", "blur_and_blend", "branch", "pool_tokens", "tile_attention"]


@pytest.mark.parametrize("module", EXAMPLES)
def test_examples(module):
    found = doctest.testmod(importlib.import_module(f"attnpatch.ops.{module}"))
    assert found.attempted > 0 and found.failed == 0
