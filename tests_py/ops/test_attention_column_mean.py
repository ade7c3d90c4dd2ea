# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The operator attention_column_mean: exactness, strides, registration, compilation, errors."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from moving import exact, on

from attnpatch import _core
from attnpatch.ops import attention_column_mean, attention_column_mean_reference

OPERATOR = torch.ops.attnpatch.attention_column_mean.default


def make_inputs(
    batch=2,
    heads=3,
    queries=37,
    keys=29,
    size=40,
    dtype=torch.float32,
    seed=0,
    scale=1.0,
    device="cpu",
):
    """q, k and v, laid out as hosts hand them over: heads side by side in a row."""
    g = torch.Generator().manual_seed(seed)

    def heads_of(tokens, factor):
        flat = factor * torch.randn(batch, tokens, heads * size, generator=g)
        return flat.to(device, dtype).view(batch, tokens, heads, size).transpose(1, 2)

    return heads_of(queries, scale), heads_of(keys, scale), heads_of(keys, 1.0)


def formula(q, k, v, rows=None, scale=None):
    """What the operator computes, in float64, with the whole map."""
    q, k, v = exact(q), exact(k), exact(v)
    scale = q.shape[3] ** -0.5 if scale is None else scale
    scores = q @ k.transpose(2, 3) * scale
    attention_map = (scores - scores.amax(dim=3, keepdim=True)).exp()
    attention_map = attention_map / attention_map.sum(dim=3, keepdim=True)
    columns = attention_map.sum(dim=2).mean(dim=1)
    return attention_map @ v, columns if rows is None else columns[list(rows)]


BOUNDS = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
COLUMN_BOUND = 4e-6  # relative; the inputs are exact, and the sums are fp32 whatever their dtype


def assert_equals_formula(found, expected, bound, rounding=0.0):
    out, columns = found
    torch.testing.assert_close(exact(out), expected[0], rtol=bound, atol=bound, check_stride=False)
    assert columns.dtype == torch.float32
    rtol = COLUMN_BOUND + rounding
    torch.testing.assert_close(exact(columns), expected[1], rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("rows", [None, [], [0], [1, 0], [1, 1]])
@pytest.mark.parametrize("function", [OPERATOR, attention_column_mean_reference])
def test_equals_the_formula(dtype, rows, function, device):
    inputs = make_inputs(dtype=dtype, device=device)
    found = function(*inputs, rows)
    assert found[0].dtype == dtype
    assert_equals_formula(found, formula(*inputs, rows), BOUNDS[dtype])


LAYOUTS = {
    "heads in a row": lambda t: t,
    "heads apart": lambda t: t.contiguous(),
    "channels apart": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
    "tokens with gaps": lambda t: t.repeat_interleave(2, dim=2)[:, :, ::2],
    "channels with gaps": lambda t: t.repeat_interleave(3, dim=3)[..., 1::3],
    "heads one memory": lambda t: t[:, :1].expand_as(t),
    "rows one memory": lambda t: t[:1].expand_as(t),
}


@settings(max_examples=80, deadline=None)
@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 4),
    queries=st.integers(1, 150),
    keys=st.integers(1, 150),
    size=st.integers(1, 50) | st.sampled_from([64, 80, 128, 160]),
    dtype=st.sampled_from(list(BOUNDS)),
    scale=st.sampled_from([None, 0.0, 0.3]),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_the_column_mean_is_the_maps_for_every_shape(
    batch, heads, queries, keys, size, dtype, scale, seed, data, device
):
    inputs = make_inputs(batch, heads, queries, keys, size, dtype, seed, device=device)
    layouts = data.draw(st.tuples(*[st.sampled_from(list(LAYOUTS))] * 3))
    inputs = [LAYOUTS[name](t) for name, t in zip(layouts, inputs, strict=True)]
    rows = data.draw(st.none() | st.lists(st.integers(0, batch - 1), max_size=4))
    expected = formula(*inputs, rows, scale)
    # A rounded score changes its exponential by as much as the score is large.
    factor = size**-0.5 if scale is None else scale
    rounding = 2.0**-22 * factor * float((inputs[0].float() @ inputs[1].float().mT).abs().max())
    for function in (OPERATOR, attention_column_mean_reference):
        found = function(*inputs, rows, scale)
        assert_equals_formula(found, expected, max(BOUNDS[dtype], 4e-6) + 2 * rounding, rounding)
        # All that the queries give, the keys get.
        sums = torch.full((len(found[1]),), float(queries))
        torch.testing.assert_close(found[1].sum(dim=1).cpu(), sums, rtol=2e-6, atol=0)


def test_an_even_map_has_columns_of_one(device):
    q, k, v = make_inputs(queries=64, keys=64, device=device)
    assert torch.equal(OPERATOR(0 * q, k, v)[1], torch.ones(2, 64, device=device))


@pytest.mark.parametrize("target", _core.cpu_targets())
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_every_instruction_set_equals_the_formula(target, dtype):
    inputs = make_inputs(queries=77, keys=141, size=64, dtype=dtype)
    try:
        _core.force_cpu_target(target)
        found = OPERATOR(*inputs)
    finally:
        _core.force_cpu_target("")
    assert_equals_formula(found, formula(*inputs), BOUNDS[dtype])


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_error_is_at_most_that_of_torch(dtype, scale, device):
    inputs = make_inputs(2, 8, 256, 256, 64, dtype, scale=scale, device=device)
    expected, expected_columns = formula(*inputs)
    out, columns = OPERATOR(*inputs)

    def error(found):
        return (exact(found) - expected).norm() / expected.norm()

    # On CUDA torch's own kernel computes as ours does, in another order.
    slack = 1.0 if device.type == "cpu" else 1.1
    assert error(out) <= slack * error(F.scaled_dot_product_attention(*inputs))
    # Against the sums over the map that torch makes of them in fp32, whose scale, a power of two
    # here, rounds nothing.
    q, k, _ = (t.float() for t in inputs)
    theirs = (q @ k.transpose(2, 3) * 0.125).softmax(dim=3).sum(dim=2).mean(dim=1)
    theirs = (exact(theirs) - expected_columns).norm()
    assert (exact(columns) - expected_columns).norm() <= 2 * theirs


def test_recording_changes_no_bit_of_the_attention(device):
    inputs = make_inputs(queries=150, device=device)
    expected, columns = OPERATOR(*inputs)
    for rows in ([], [0], [1]):
        out, some = OPERATOR(*inputs, rows)
        assert torch.equal(out, expected)
        assert torch.equal(some, columns[rows])


def test_threads_change_no_bit():
    inputs = make_inputs(queries=400)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(OPERATOR(*inputs))
    finally:
        torch.set_num_threads(before)
    for out, columns in results[1:]:
        assert torch.equal(out, results[0][0])
        assert torch.equal(columns, results[0][1])


def test_any_strides_give_the_same(device):
    inputs = make_inputs(device=device)
    expected = OPERATOR(*inputs)
    for variant in (
        [t.contiguous() for t in inputs],
        [t.transpose(2, 3).contiguous().transpose(2, 3) for t in inputs],
        [t.repeat_interleave(2, dim=2)[:, :, ::2] for t in inputs],
    ):
        assert all(map(torch.equal, OPERATOR(*variant), expected))


def test_joining_the_heads_of_the_result_is_a_view(device):
    out = OPERATOR(*make_inputs(device=device))[0]
    assert out.transpose(1, 2).flatten(2).data_ptr() == out.data_ptr()
    assert attention_column_mean_reference(*make_inputs())[0].stride() == out.stride()


def test_inputs_and_random_state_stay_as_they_were(device):
    inputs = make_inputs(device=device)
    before = [t.clone() for t in inputs]
    state = torch.random.get_rng_state()
    OPERATOR(*inputs)
    assert all(map(torch.equal, before, inputs))
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize(("gradient", "rows"), [(False, None), (True, [1])])
def test_opcheck(gradient, rows, device):
    inputs = make_inputs(queries=5, keys=7, size=8, device=device)
    for tensor in inputs:
        tensor.requires_grad_(gradient)
    torch.library.opcheck(OPERATOR, (*inputs, rows))


@pytest.mark.parametrize("rows", [None, [], [1]])
def test_gradients_are_those_of_the_formula(rows, device):
    def gradients(function):
        inputs = make_inputs(queries=5, keys=7, size=8, device=device)
        leaves = [t.detach().requires_grad_() for t in inputs]
        out, columns = function(*leaves, rows)
        (out.square().sum() + columns.square().sum()).backward()
        return [leaf.grad for leaf in leaves]

    for ours, expected in zip(gradients(OPERATOR), gradients(formula), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


def test_compiles_whole(device):
    inputs = make_inputs(device=device)
    compiled = torch.compile(attention_column_mean, fullgraph=True, backend="aot_eager")
    for found, expected in zip(compiled(*inputs, [1]), OPERATOR(*inputs, [1]), strict=True):
        torch.testing.assert_close(found, expected)


def test_autocast_casts_the_attention_inputs(device):
    inputs = make_inputs(device=device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        out, columns = OPERATOR(*inputs)
    assert (out.dtype, columns.dtype) == (torch.bfloat16, torch.float32)
    expected = OPERATOR(*inputs)
    torch.testing.assert_close(out.float(), expected[0], rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(columns, expected[1], rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("function", [OPERATOR, attention_column_mean_reference])
def test_empty_inputs_have_defined_results(function, device):
    out, columns = function(*make_inputs(batch=0, device=device))
    assert (out.shape, columns.shape) == ((0, 3, 37, 40), (0, 29))
    out, columns = function(*make_inputs(queries=0, device=device))
    assert out.shape == (2, 3, 0, 40)
    assert torch.equal(columns, torch.zeros(2, 29, device=device))
    out, columns = function(*make_inputs(keys=0, device=device))
    assert torch.equal(out, torch.zeros(2, 3, 37, 40, device=device))
    assert columns.shape == (2, 0)


@pytest.mark.parametrize("function", [OPERATOR, attention_column_mean_reference])
@pytest.mark.parametrize("row", [-1, 2])
def test_a_row_outside_the_batch_is_an_error(function, row, device):
    with pytest.raises(RuntimeError, match=f"rows: expected at least 0 and below 2, .*, got {row}"):
        function(*make_inputs(device=device), [0, row])


@pytest.mark.parametrize(
    ("index", "value", "message"),
    [
        (
            0,
            torch.rand(2, 37, 120),
            r"q: expected .* \(batch, heads, .*\), got float32 \(2, 37, 120\)",
        ),
        (
            1,
            torch.rand(2, 3, 29, 41),
            r"^k: expected float32 \(2, 3 or a divisor, tokens, 40\) .* \(2, 3, 29, 41\)",
        ),
        (
            1,
            torch.rand(2, 3, 28, 40),
            r"^v: expected float32 \(2, 3, 28, 40\) .*, got float32 \(2, 3, 29, 40\)",
        ),
        (2, torch.rand(2, 3, 29, 40).half(), r"^v: expected float32 .*, got float16"),
        (
            0,
            torch.rand(1, 3, 37, 40),
            r"^k: expected float32 \(1, 3 or a divisor, tokens, 40\) .* \(2, 3, 29, 40\)",
        ),
    ],
)
def test_errors_name_the_argument(index, value, message, device):
    inputs = list(make_inputs())
    inputs[index] = value
    with pytest.raises(RuntimeError, match=message):
        OPERATOR(*on(device, inputs))


def test_float64_is_an_error(device):
    with pytest.raises(RuntimeError, match="q: expected float32, float16 or bfloat16"):
        OPERATOR(*make_inputs(dtype=torch.float64, device=device))
