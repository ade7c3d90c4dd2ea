# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Attention to text and to kept branches: bit for bit that of ``branch_attention``."""

import gc
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnpatch._core import BranchSet
from attnpatch.engine.branches import Branches
from attnpatch.engine.heads import join_heads, split_heads
from attnpatch.ops.attend import attend, takes

OPERATOR = torch.ops.attnpatch.attend.default
BATCH, HEADS, SIZE, QUERIES, TEXT = 3, 2, 20, 11, 7
CHANNELS = HEADS * SIZE


def make_branches(
    counts=(4, 3),
    dtype=torch.float32,
    masks=None,
    shared_softmax=0,
    rows=2,
    seed=0,
    channels=CHANNELS,
):
    generator = torch.Generator().manual_seed(seed)

    def tokens(count):
        return torch.randn(rows, count, channels, generator=generator).to(dtype)

    masked = None
    if masks:
        masked = torch.rand(len(counts), masks, QUERIES, generator=generator)
    which = [torch.randint(-1, rows, (BATCH,), generator=generator) for _ in counts]
    weights = torch.rand(len(counts), BATCH, generator=generator)
    keys, values = [tokens(n) for n in counts], [tokens(n) for n in counts]
    return Branches(keys, values, which, weights, masked, shared_softmax)


def make_inputs(dtype=torch.float32, seed=1, batch=BATCH):
    generator = torch.Generator().manual_seed(seed)
    sizes = (QUERIES, TEXT, TEXT)
    return [torch.randn(batch, n, CHANNELS, generator=generator).to(dtype) for n in sizes]


def kept(branches):
    return BranchSet(
        branches.k, branches.v, branches.rows, branches.weights, branches.masks,
        branches.shared_softmax,
    )  # fmt: skip


def apart(branches, inputs, heads=HEADS, scale=None):
    return join_heads(branches.attend(*(split_heads(x, heads) for x in inputs), scale))


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    st.sampled_from([None, 1, BATCH]),
    st.integers(0, 4),
    st.sampled_from([1, 2, 4, 5]),
    st.sampled_from([None, 0.3]),
    st.integers(0, 99),
)
def test_equals_branch_attention(counts, dtype, masks, shared, heads, scale, seed):
    branches = make_branches(counts, dtype, masks, min(shared, len(counts)), seed=seed)
    inputs = make_inputs(dtype, seed)
    with torch.no_grad():
        assert takes(*inputs)
        ours = branches.attend_joined(*inputs, heads, scale)
        assert torch.equal(ours, apart(branches, inputs, heads, scale))
    assert ours.is_contiguous() and ours.dtype is dtype


@pytest.mark.parametrize(
    "cut",
    [
        lambda x: x.mT.contiguous().mT,
        lambda x: x.repeat(1, 1, 2)[..., :CHANNELS],
        lambda x: x.repeat_interleave(2, 1)[:, ::2],
    ],
)
def test_any_strides(cut):
    branches, inputs = make_branches(masks=1), make_inputs()
    held, strided = kept(branches), [cut(x) for x in inputs]
    assert not all(x.is_contiguous() for x in strided)
    assert torch.equal(attend(*strided, held.handle, HEADS), apart(branches, inputs))


def test_a_set_lives_as_long_as_its_object():
    inputs, first = make_inputs(), kept(make_branches())
    handle = first.handle
    second = kept(make_branches(seed=3))
    assert second.handle != handle
    attend(*inputs, handle, HEADS)
    del first
    gc.collect()
    with pytest.raises(RuntimeError, match=r"^branches: expected the number of a BranchSet"):
        attend(*inputs, handle, HEADS)
    attend(*inputs, second.handle, HEADS)


def test_threads_make_and_use_sets():
    inputs, errors = make_inputs(), []

    def work(seed):
        try:
            for n in range(50):
                branches = make_branches(seed=100 * seed + n)
                held = kept(branches)
                ours = attend(*inputs, held.handle, HEADS)
                assert torch.equal(ours, apart(branches, inputs))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": []}, "^k, v, rows: expected the same count of branches, .* got 0, 2 and 2"),
        ({"rows": [torch.zeros(3, dtype=torch.int64)] * 3}, "k, v, rows: .* got 2, 2 and 3"),
        ({"rows": [torch.full((3,), 2), torch.zeros(3, dtype=torch.int64)]},
         r"^rows\[0\]: expected rows below 2, those of k\[0\], got 2"),
        ({"weights": torch.ones(2, 3, dtype=torch.float64)}, "^weights: expected float32"),
        ({"weights": torch.ones(2, 2)}, r"^weights: expected float32 \(2, 3\).*, got .*\(2, 2\)"),
        ({"masks": torch.ones(2, 2, 5)}, "^masks: "),
        ({"shared_softmax": 3}, "^shared_softmax: expected 0 to 2, got 3"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_sets_that_do_not_fit_are_refused(change, message):
    branches = make_branches()
    names = ("k", "v", "rows", "weights", "masks", "shared_softmax")
    values = {name: getattr(branches, name) for name in names} | change
    with pytest.raises(RuntimeError, match=message):
        BranchSet(*values.values())


@pytest.mark.parametrize(
    ("inputs", "heads", "message"),
    [
        (make_inputs(), 3, "^heads: expected a divisor of the 40 channels, got 3"),
        (make_inputs(), 0, "^heads: expected a divisor of the 40 channels, got 0"),
        (make_inputs(torch.float64), HEADS, "^q: expected float32"),
        ([x.half() if i == 1 else x for i, x in enumerate(make_inputs())], HEADS, "^k: expected"),
        (make_inputs(torch.float16), HEADS, "^branches: k: expected float16"),
        (make_inputs(batch=2), HEADS, "^branches: rows: "),
        ([x[..., :20] for x in make_inputs()], HEADS, "^branches: k: "),
        (
            [make_inputs()[0], *(x[:, :-i] for i, x in enumerate(make_inputs()[1:], 1))],
            HEADS,
            "^v: ",
        ),
        (
            [x[:, :5] for x in make_inputs()],
            HEADS,
            "^branches: expected masks of 5 queries, got 11",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_name_the_argument(inputs, heads, message):
    held = kept(make_branches(masks=1))
    with pytest.raises(RuntimeError, match=message):
        attend(*inputs, held.handle, heads)


def test_others_serve_gradients_other_dtypes_and_autocast():
    branches, inputs = make_branches(), make_inputs()
    leaf = inputs[0].clone().requires_grad_()
    assert not takes(leaf, *inputs[1:])
    branches.attend_joined(leaf, *inputs[1:], HEADS).sum().backward()
    assert leaf.grad.abs().sum() > 0
    assert not takes(*make_inputs(torch.float64))
    with torch.autocast("cpu", torch.bfloat16):
        assert not takes(*inputs)
    with torch.no_grad():
        assert takes(leaf, *inputs[1:])


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_heads_in_groups_have_their_keys_in_common(kv_heads):
    """Keys and values have fewer channels than the queries."""
    size = CHANNELS // 4
    q, k, v = make_inputs()
    k, v = k[..., : kv_heads * size], v[..., : kv_heads * size]
    branches = make_branches(masks=1, shared_softmax=1, channels=kv_heads * size)
    held = kept(branches)
    found = attend(q, k, v, held.handle, 4)
    keys, values = ([split_heads(t, kv_heads) for t in ts] for ts in (branches.k, branches.v))
    expected = torch.ops.attnpatch.branch_attention.default(
        split_heads(q, 4),
        split_heads(k, kv_heads),
        split_heads(v, kv_heads),
        keys,
        values,
        branches.rows,
        branches.weights,
        branches.masks,
        1,
    )
    assert torch.equal(found, join_heads(expected))


def test_opcheck():
    held = kept(make_branches())
    torch.library.opcheck(
        OPERATOR,
        (*make_inputs(), held.handle, HEADS),
        test_utils=("test_schema", "test_faketensor"),
    )
