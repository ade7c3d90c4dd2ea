# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The operator branch_attention: exactness, strides, registration, compilation, errors."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from moving import exact, on

from attnpatch import _core
from attnpatch.ops.branch_attention import (
    branch_attention_flat,
    branch_attention_reference,
)

OPERATOR = torch.ops.attnpatch.branch_attention.default


def make_inputs(
    batch=2,
    heads=3,
    queries=37,
    size=40,
    text=7,
    branches=(4, 5),
    dtype=torch.float32,
    seed=0,
    device="cpu",
):
    """Arguments of the operator, laid out as hosts hand them over: heads side by side in a row."""
    g = torch.Generator().manual_seed(seed)

    def heads_of(rows, tokens):
        flat = torch.randn(rows, tokens, heads * size, generator=g).to(device, dtype)
        return flat.view(rows, tokens, heads, size).transpose(1, 2)

    q, k, v = heads_of(batch, queries), heads_of(batch, text), heads_of(batch, text)
    branch_k = [heads_of(3, m) for m in branches]
    branch_v = [heads_of(3, m) for m in branches]
    rows = [torch.randint(0, 3, (batch,), generator=g).to(device) for _ in branches]
    weights = torch.rand(len(branches), batch, generator=g).to(device)
    return [q, k, v, branch_k, branch_v, rows, weights]


def random_masks(inputs, rows, seed=1):
    q, weights = inputs[0], inputs[6]
    g = torch.Generator().manual_seed(seed)
    return torch.rand(weights.shape[0], rows, q.shape[2], generator=g).to(q.device)


def formula(inputs, masks=None, shared_softmax=0):
    """What the operator computes, in float64, one row and head at a time."""
    q, k, v, branch_k, branch_v, rows, weights = exact(inputs)
    masks = exact(masks)
    out = torch.zeros_like(q)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            groups = [[(k[b, h], v[b, h], torch.ones(q.shape[2], dtype=torch.float64))]]
            for i in range(len(branch_k)):
                share = weights[i, b].expand(q.shape[2])
                if masks is not None:
                    share = share * masks[i, b % masks.shape[1]]
                r = int(rows[i][b])
                term = (branch_k[i][r, h], branch_v[i][r, h], share if r >= 0 else 0 * share)
                groups[0].append(term) if i < shared_softmax else groups.append([term])
            for number, group in enumerate(groups):
                keys = torch.cat([term[0] for term in group])
                if len(keys) == 0:
                    continue
                scores = q[b, h] @ keys.T / q.shape[3] ** 0.5
                e = (scores - scores.amax(dim=1, keepdim=True)).exp()
                if number == 0:
                    shares = [s[:, None].expand(-1, len(kk)) for kk, _, s in group]
                    e = e * torch.cat(shares, dim=1)
                term = e @ torch.cat([t[1] for t in group]) / e.sum(dim=1, keepdim=True)
                out[b, h] += term if number == 0 else term * group[0][2][:, None]
    return out


BOUNDS = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("shared_softmax", [0, 1, 2])
@pytest.mark.parametrize("mask_rows", [0, 1, 2])
@pytest.mark.parametrize("function", [OPERATOR, branch_attention_reference])
def test_equals_the_formula(dtype, shared_softmax, mask_rows, function, device):
    inputs = make_inputs(dtype=dtype, device=device)
    masks = random_masks(inputs, mask_rows) if mask_rows else None
    out = function(*inputs, masks, shared_softmax)
    assert out.dtype == dtype
    torch.testing.assert_close(
        exact(out), formula(inputs, masks, shared_softmax), rtol=BOUNDS[dtype], atol=BOUNDS[dtype]
    )


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 4),
    heads=st.integers(1, 3),
    queries=st.integers(1, 70),
    size=st.integers(1, 50),
    text=st.integers(0, 20),
    branches=st.lists(st.integers(1, 9), max_size=3),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_equals_the_formula_for_every_shape(
    batch, heads, queries, size, text, branches, seed, data, device
):
    inputs = make_inputs(batch, heads, queries, size, text, branches, seed=seed, device=device)
    shared_softmax = data.draw(st.integers(0, len(branches) if text else 0))
    if branches:
        inputs[5][0][0] = data.draw(st.integers(-1, 2))
        inputs[6][-1][-1] = data.draw(st.sampled_from([0.0, 0.5, 2.0]))
    masks = random_masks(inputs, data.draw(st.sampled_from([1, batch])), seed)
    expected = formula(inputs, masks, shared_softmax)
    out = OPERATOR(*inputs, masks, shared_softmax)
    torch.testing.assert_close(exact(out), expected, rtol=0, atol=4e-6)


@pytest.mark.parametrize("target", _core.cpu_targets())
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_every_instruction_set_equals_the_formula(target, dtype):
    inputs = make_inputs(dtype=dtype, size=64, text=77, branches=(16,))
    try:
        _core.force_cpu_target(target)
        out = OPERATOR(*inputs)
    finally:
        _core.force_cpu_target("")
    bound = BOUNDS[dtype]
    torch.testing.assert_close(exact(out), formula(inputs), rtol=bound, atol=bound)


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_error_is_at_most_that_of_torch(dtype, device):
    """Text and one image branch, against torch's own attention in the same dtype."""
    inputs = make_inputs(2, 8, 256, 64, 77, (16,), dtype, device=device)
    inputs[6].fill_(1.0)
    inputs[5] = [torch.tensor([0, 1], device=device)]
    q, k, v, (bk,), (bv,), _, _ = inputs
    expected = formula(inputs)
    torch_out = F.scaled_dot_product_attention(q, k, v)
    torch_out = torch_out + F.scaled_dot_product_attention(q, bk[:2], bv[:2])
    assert (exact(OPERATOR(*inputs)) - expected).norm() <= (exact(torch_out) - expected).norm()


def test_any_strides_give_the_same(device):
    inputs = make_inputs(device=device)
    contiguous = [t.contiguous() if torch.is_tensor(t) else t for t in inputs]
    channels_apart = [
        t.transpose(2, 3).contiguous().transpose(2, 3) if torch.is_tensor(t) and t.dim() == 4 else t
        for t in inputs
    ]
    every_second = [
        t.repeat_interleave(2, dim=2)[:, :, ::2] if torch.is_tensor(t) and t.dim() == 4 else t
        for t in inputs
    ]
    expected = OPERATOR(*inputs)
    for variant in (contiguous, channels_apart, every_second):
        assert torch.equal(OPERATOR(*variant), expected)
    # One row of keys that serves all of the batch without a copy.
    inputs[1] = inputs[1][:1].expand(2, -1, -1, -1)
    inputs[2] = inputs[2][:1].expand(2, -1, -1, -1)
    torch.testing.assert_close(
        exact(OPERATOR(*inputs)), formula(inputs), rtol=0, atol=4e-6, check_stride=False
    )


def test_joining_the_heads_of_the_result_is_a_view(device):
    out = OPERATOR(*make_inputs(device=device))
    joined = out.transpose(1, 2).flatten(2)
    assert joined.data_ptr() == out.data_ptr()
    assert branch_attention_reference(*make_inputs()).stride() == out.stride()


def test_a_branch_of_weight_zero_changes_no_bit(device):
    inputs = make_inputs(branches=(4, 16), device=device)
    inputs[6][1] = 0.0
    without = [*inputs[:3], inputs[3][:1], inputs[4][:1], inputs[5][:1], inputs[6][:1]]
    assert torch.equal(OPERATOR(*inputs), OPERATOR(*without))
    inputs[4][1].fill_(float("nan"))
    assert torch.equal(OPERATOR(*inputs), OPERATOR(*without))


@pytest.mark.parametrize("branches", [(4,), (16, 200)])
@pytest.mark.parametrize("text", [0, 77])
def test_a_mask_of_ones_changes_no_bit(text, branches, device):
    inputs = make_inputs(text=text, branches=branches, device=device)
    ones = torch.ones(len(branches), 1, inputs[0].shape[2], device=device)
    assert torch.equal(OPERATOR(*inputs, masks=ones), OPERATOR(*inputs))


@settings(max_examples=60)
@given(
    function=st.sampled_from([OPERATOR, branch_attention_reference]),
    shared_softmax=st.integers(0, 2),
    kind=st.sampled_from(["mask", "weight", "row"]),
    index=st.sampled_from([3, 4]),
    value=st.sampled_from([float("nan"), float("inf"), -float("inf"), 300.0]),
    place=st.integers(0, 10_000),
    dtype=st.sampled_from(list(BOUNDS)),
)
def test_nothing_of_a_branch_arrives_where_it_is_off(
    device, function, shared_softmax, kind, index, value, place, dtype
):
    """Neither as a number nor as one that is none, nor as the largest score of a softmax."""
    inputs = make_inputs(dtype=dtype, device=device)
    inputs[5][0][:] = 1
    masks = random_masks(inputs, 2) + 0.1
    off = torch.ones(2, 37, dtype=torch.bool, device=device)
    if kind == "mask":
        off = random_masks(inputs, 2, seed=place)[0] < 0.5
        masks[0][off] = 0.0
    elif kind == "weight":
        inputs[6][0] = 0.0
    else:
        inputs[5][0][:] = -1
    expected = function(*inputs, masks, shared_softmax).transpose(1, 2)[off]
    branch = inputs[index][0].clone(memory_format=torch.contiguous_format)
    branch.view(-1)[place % branch.numel()] = value
    inputs[index][0] = branch
    found = function(*inputs, masks, shared_softmax).transpose(1, 2)[off]
    torch.testing.assert_close(found, expected, rtol=BOUNDS[dtype], atol=BOUNDS[dtype])


def test_inputs_and_random_state_stay_as_they_were(device):
    inputs = make_inputs(device=device)
    before = [t.clone() for t in inputs if torch.is_tensor(t)]
    state = torch.random.get_rng_state()
    OPERATOR(*inputs)
    assert all(map(torch.equal, before, (t for t in inputs if torch.is_tensor(t))))
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("gradient", [False, True])
def test_opcheck(gradient, device):
    inputs = make_inputs(queries=5, size=8, device=device)
    for tensor in inputs[:3]:
        tensor.requires_grad_(gradient)
    torch.library.opcheck(OPERATOR, (*inputs, random_masks(inputs, 1)))


def test_gradients_are_those_of_the_reference(device):
    def gradients(function):
        inputs = make_inputs(queries=5, size=8, device=device)
        leaves = [*inputs[:3], *inputs[3], *inputs[4], inputs[6]]
        for leaf in leaves:
            leaf.requires_grad_()
        function(*inputs, random_masks(inputs, 2)).square().sum().backward()
        return [leaf.grad for leaf in leaves]

    for ours, expected in zip(
        gradients(OPERATOR), gradients(branch_attention_reference), strict=True
    ):
        torch.testing.assert_close(ours, expected)


@pytest.mark.slow
@pytest.mark.parametrize("shared_softmax", [0, 1, 2])
def test_gradients_are_the_derivatives(shared_softmax):
    """In float64, where weights and masks are 0 as well."""
    inputs = exact(make_inputs(queries=3, size=4, text=2, branches=(2, 3)))
    masks = exact(random_masks(inputs, 2))
    masks[0, 1, 1] = masks[1, 0, 2] = inputs[6][1, 1] = 0.0
    inputs[5][0][0] = -1
    q, k, v, (k0, k1), (v0, v1), rows, weights = inputs
    leaves = [leaf.requires_grad_() for leaf in (q, k, v, k0, k1, v0, v1, weights, masks)]

    def function(q, k, v, k0, k1, v0, v1, weights, masks):
        if shared_softmax:  # differences from below 0 are none of a share
            weights, masks = weights.abs(), masks.abs()
        # Past the checks: the derivatives by weights and masks are to be exact as well.
        reference = branch_attention_reference.__wrapped__
        return reference(q, k, v, [k0, k1], [v0, v1], rows, weights, masks, shared_softmax)

    if shared_softmax:
        masks.data.clamp_(min=0.1)
        weights.data.clamp_(min=0.1)
    torch.autograd.gradcheck(function, leaves)


@pytest.mark.parametrize("shared_softmax", [0, 1])
def test_a_share_of_zero_has_the_gradient_of_a_small_one(shared_softmax, device):
    def gradients(share):
        inputs = make_inputs(queries=5, size=8, device=device)
        masks = random_masks(inputs, 2)
        masks[0, :, 2] = share
        inputs[6][0, 1] = share
        leaves = [inputs[6].requires_grad_(), masks.requires_grad_()]
        return torch.autograd.grad(OPERATOR(*inputs, masks, shared_softmax).square().sum(), leaves)

    for ours, near in zip(gradients(0.0), gradients(1e-6), strict=True):
        torch.testing.assert_close(ours, near, rtol=1e-3, atol=1e-4)


def test_a_write_between_forward_and_backward_is_seen():
    inputs = make_inputs(queries=5, size=8)
    out = OPERATOR(inputs[0].requires_grad_(), *inputs[1:])
    inputs[3][1].add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_gradients_without_branches():
    inputs = make_inputs(queries=5, size=8, branches=())
    inputs[0].requires_grad_()
    OPERATOR(*inputs).sum().backward()
    (expected,) = torch.autograd.grad(F.scaled_dot_product_attention(*inputs[:3]).sum(), inputs[0])
    torch.testing.assert_close(inputs[0].grad, expected)


def test_compiles_whole_and_a_changed_weight_recompiles_nothing(device):
    inputs = make_inputs(device=device)
    compiled = torch.compile(branch_attention_flat, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), OPERATOR(*inputs))
    inputs[6] = inputs[6] * 0.5
    with torch.compiler.set_stance("fail_on_recompile"):
        torch.testing.assert_close(compiled(*inputs), OPERATOR(*inputs))


def test_autocast_casts_the_attention_inputs_alone(device):
    inputs = make_inputs(device=device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        out = OPERATOR(*inputs)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), OPERATOR(*inputs), rtol=2e-2, atol=2e-2)


def test_empty_inputs_have_defined_results(device):
    assert OPERATOR(*make_inputs(batch=0, device=device)).shape == (0, 3, 37, 40)
    assert OPERATOR(*make_inputs(queries=0, device=device)).shape == (2, 3, 0, 40)
    nothing = make_inputs(text=0, branches=(), device=device)
    assert torch.equal(OPERATOR(*nothing), torch.zeros(2, 3, 37, 40, device=device))


def replaced(index, value, inner=None):
    inputs = make_inputs()
    if inner is None:
        inputs[index] = value
    else:
        inputs[index][inner] = value
    return inputs


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            replaced(0, torch.rand(2, 37, 120)),
            r"q: expected .* \(batch, heads, .*\), got float32 \(2, 37, 120\)",
        ),
        (
            replaced(1, torch.rand(2, 3, 7, 41)),
            r"^k: expected float32 \(2, 3 or a divisor, tokens, 40\) .* \(2, 3, 7, 41\)",
        ),
        (
            replaced(1, torch.rand(2, 3, 8, 40)),
            r"^v: expected float32 \(2, 3, 8, 40\) .*, got float32 \(2, 3, 7, 40\)",
        ),
        (
            replaced(3, torch.rand(3, 2, 4, 40), 0),
            r"branch_k\[0\]: expected .* \(rows, 3, tokens, 40\) .*, got float32 \(3, 2, 4, 40\)",
        ),
        (
            replaced(4, torch.rand(3, 3, 4, 40).half(), 0),
            r"branch_v\[0\]: expected float32 .*, got float16",
        ),
        (
            replaced(5, torch.tensor([0]), 1),
            r"branch_rows\[1\]: expected int64 \(2\) .*, got int64 \(1\)",
        ),
        (
            replaced(6, torch.rand(2, 3)),
            r"weights: expected float32 \(2, 2\) .*, got float32 \(2, 3\)",
        ),
        (
            replaced(5, [torch.tensor([0, 1])]),
            r"expected the same count of branches, got 2, 2 and 1",
        ),
        ([t.double() if torch.is_tensor(t) else t for t in make_inputs(branches=())], "float32"),
    ],
)
def test_errors_name_the_argument(inputs, message, device):
    with pytest.raises(RuntimeError, match=message):
        OPERATOR(*on(device, inputs))


def test_a_row_that_is_not_there_is_seen(device):
    inputs = on(device, replaced(5, torch.tensor([0, 3]), 1))
    if device.type == "cpu":
        with pytest.raises(
            RuntimeError, match=r"branch_rows\[1\]: expected rows below 3, .*, got 3"
        ):
            OPERATOR(*inputs)
    else:
        assert OPERATOR(*inputs).isnan().flatten(1).all(dim=1).tolist() == [False, True]


def test_joint_without_text_is_an_error(device):
    with pytest.raises(
        RuntimeError, match=r"shared_softmax: expected 0 where there are no text tokens .*, got 1"
    ):
        OPERATOR(*make_inputs(text=0, device=device), None, 1)


def test_masks_of_another_size_are_an_error(device):
    with pytest.raises(
        RuntimeError,
        match=r"masks: expected float32 \(2, 1 or batch, 37\) .*, got float32 \(2, 1, 36\)",
    ):
        OPERATOR(*make_inputs(device=device), torch.ones(2, 1, 36, device=device))
