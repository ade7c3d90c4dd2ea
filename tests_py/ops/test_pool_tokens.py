# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The operator pool_tokens: exactness, strides, registration, compilation, errors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moving import exact, on
from tilings import tiles_of, tilings

from attnpatch import _core
from attnpatch.ops import Tiling, pool_tokens, pool_tokens_reference

OPERATOR = torch.ops.attnpatch.pool_tokens.default
BOUNDS = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
ONE = st.integers(1, 9)
TWO = st.tuples(st.integers(1, 5), st.integers(1, 5))
STEPS = st.one_of(st.tuples(ONE.map(lambda n: (n,)), ONE.map(lambda n: (n,))), st.tuples(TWO, TWO))


def formula(x, tiling, window, stride, mode, blends):
    """What the operator computes, in float64 on the CPU, one token at a time."""
    x = exact(x)
    results = [[] for _ in blends]
    for tile in tiles_of(tiling):
        if len(stride) == 1:
            tile, window2, stride2 = tile.reshape(1, -1), (1, *window), (1, *stride)
        else:
            window2, stride2 = window, stride
        for i in range(0, tile.shape[0], stride2[0]):
            for j in range(0, tile.shape[1], stride2[1]):
                inside = tile[i : i + window2[0], j : j + window2[1]].flatten()
                tokens = x[:, inside]
                pooled = tokens.mean(dim=1) if mode == "avg" else tokens.amax(dim=1)
                for blend, result in zip(blends, results, strict=True):
                    result.append((1 - blend) * x[:, tile[i, j]] + blend * pooled)
    return [torch.stack(result, dim=1) for result in results]


def arguments(
    tiling, window, stride, mode, blends, channels=19, batch=2, dtype=torch.float32, device="cpu"
):
    tokens = tiling.grid[0] * tiling.grid[1]
    x = torch.randn(batch, tokens, channels, generator=torch.Generator().manual_seed(0))
    x = x.to(device, dtype)
    return [x, tiling.grid, tiling.tile, tiling.offset, window, stride, mode, blends]


CASE = (Tiling((10, 13), (4, 5), (1, 2)), (3, 2), (2, 2), "avg", [0.0, 0.3, 1.0])


def check(found, expected, bound):
    assert len(found) == len(expected)
    for ours, formulas in zip(found, expected, strict=True):
        torch.testing.assert_close(exact(ours), formulas, rtol=bound, atol=bound)


@settings(max_examples=60, deadline=None)
@given(
    tiling=tilings(),
    steps=STEPS,
    mode=st.sampled_from(["avg", "max"]),
    blends=st.lists(st.sampled_from([0.0, 0.25, 1.0]), max_size=3),
    channels=st.integers(1, 40),
    function=st.sampled_from([OPERATOR, pool_tokens_reference]),
)
def test_equals_the_formula_for_every_tiling(
    tiling, steps, mode, blends, channels, function, device
):
    inputs = arguments(tiling, *steps, mode, blends, channels, device=device)
    expected = formula(inputs[0], tiling, *steps, mode, blends)
    check(function(*inputs), expected, 1e-6)


@pytest.mark.parametrize("target", _core.cpu_targets())
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_every_instruction_set_equals_the_formula(target, dtype, mode):
    tiling, window, stride, _, blends = CASE
    inputs = arguments(tiling, window, stride, mode, blends, dtype=dtype)
    try:
        _core.force_cpu_target(target)
        found = OPERATOR(*inputs)
    finally:
        _core.force_cpu_target("")
    assert all(tensor.dtype == dtype for tensor in found)
    check(found, formula(inputs[0], tiling, window, stride, mode, blends), BOUNDS[dtype])


@given(
    tilings(), STEPS, st.sampled_from(["avg", "max"]), st.sampled_from([0.0, 0.3, 1.0]), st.data()
)
def test_a_constant_field_stays_constant(device, tiling, steps, mode, blend, data):
    value = data.draw(st.floats(-10, 10, width=32))
    inputs = arguments(tiling, *steps, mode, [blend], device=device)
    inputs[0].fill_(value)
    (found,) = OPERATOR(*inputs)
    torch.testing.assert_close(found, torch.full_like(found, value), rtol=1e-6, atol=0)
    assert found.shape[1] == tiling.pooled(steps[1])


@given(tilings(), STEPS, st.sampled_from(["avg", "max"]))
def test_blend_0_is_every_stride_th_token_bit_by_bit(device, tiling, steps, mode):
    inputs = arguments(tiling, *steps, mode, [0.0], device=device)
    x, stride = inputs[0], steps[1]
    picked = []
    for tile in tiles_of(tiling):
        kept = (
            tile.flatten()[:: stride[0]] if len(stride) == 1 else tile[:: stride[0], :: stride[1]]
        )
        picked += kept.flatten().tolist()
    assert torch.equal(OPERATOR(*inputs)[0], x[:, picked])


def test_blend_0_reads_no_window(device):
    inputs = arguments(Tiling((4, 4), (4, 4)), (2, 2), (2, 2), "avg", [0.0], device=device)
    field = inputs[0].view(2, 4, 4, -1)
    field[:, 1::2] = float("nan")
    assert not OPERATOR(*inputs)[0].isnan().any()


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_a_nan_stays_in_its_windows_and_channel(mode, device):
    inputs = arguments(Tiling((4, 4), (4, 4)), (2, 2), (2, 2), mode, [1.0], device=device)
    for place in (0, 1, 4, 5):  # wherever it stands in the first window
        inputs[0][1, place, 3] = float("nan")
        found = OPERATOR(*inputs)[0].isnan()
        assert found[1, 0, 3]
        assert found.sum() == 1
        inputs[0][1, place, 3] = 1.0


def test_infinities_pool_to_what_arithmetic_says(device):
    inputs = arguments(Tiling((2, 2), (2, 2)), (2, 2), (2, 2), "max", [1.0], device=device)
    inputs[0].fill_(float("-inf"))
    assert OPERATOR(*inputs)[0].isneginf().all()


def test_any_strides_give_the_same(device):
    inputs = arguments(*CASE, device=device)
    x = inputs[0]
    channels_first = x.transpose(1, 2).contiguous().transpose(1, 2)
    every_second = x.repeat_interleave(2, dim=1)[:, ::2]
    expected = OPERATOR(*inputs)
    for variant in (channels_first, every_second):
        for ours, same in zip(OPERATOR(variant, *inputs[1:]), expected, strict=True):
            assert torch.equal(ours, same)
            assert ours.is_contiguous()


def test_the_public_function_takes_a_grid_or_a_tiling(device):
    tiling, window, stride, mode, blends = CASE
    inputs = arguments(*CASE, device=device)
    for ours, same in zip(
        pool_tokens(inputs[0], tiling, window, stride, mode, blends), OPERATOR(*inputs), strict=True
    ):
        assert torch.equal(ours, same)
    whole = Tiling(tiling.grid, tiling.grid)
    (ours,) = pool_tokens(inputs[0], tiling.grid, window, stride)
    check([ours], formula(inputs[0], whole, window, stride, "avg", [1.0]), 1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("gradient", [False, True])
def test_opcheck(gradient, device):
    inputs = arguments(Tiling((4, 5), (2, 5)), *CASE[1:], channels=3, device=device)
    inputs[0].requires_grad_(gradient)
    torch.library.opcheck(OPERATOR, tuple(inputs))


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_gradients_are_those_of_the_reference(mode, device):
    tiling, window, stride, _, blends = CASE
    found = []
    for function in (OPERATOR, pool_tokens_reference):
        inputs = arguments(tiling, window, stride, mode, blends, device=device)
        inputs[0].requires_grad_()
        # One result alone is used: the others have no gradient.
        function(*inputs)[1].square().sum().backward()
        found.append(inputs[0].grad)
    torch.testing.assert_close(*found)


def test_compiles_whole(device):
    tiling, window, stride, mode, blends = CASE
    inputs = arguments(*CASE, device=device)
    compiled = torch.compile(pool_tokens, fullgraph=True, backend="aot_eager")
    found = compiled(inputs[0], tiling, window, stride, mode, blends)
    check(found, exact(OPERATOR(*inputs)), 1e-6)


def test_threads_change_no_bit():
    inputs = arguments(*CASE)
    alone = OPERATOR(*inputs)
    torch.set_num_threads(3)
    assert all(map(torch.equal, OPERATOR(*inputs), alone))


def test_inputs_stay_and_results_are_apart(device):
    blends = [0.0, 0.0, 1.0]
    inputs = arguments(Tiling((3, 4), (3, 4)), (1, 1), (1, 1), "avg", blends, device=device)
    before = inputs[0].clone()
    found = OPERATOR(*inputs)
    assert len({tensor.data_ptr() for tensor in (inputs[0], *found)}) == 4
    found[0].zero_()
    assert torch.equal(inputs[0], before)
    assert torch.equal(found[1], before)


def test_empty_inputs_have_defined_results(device):
    inputs = arguments(*CASE, batch=0, device=device)
    assert [tensor.shape for tensor in OPERATOR(*inputs)] == [(0, CASE[0].pooled(CASE[2]), 19)] * 3
    inputs = arguments(*CASE, channels=0, device=device)
    assert OPERATOR(*inputs)[0].shape == (2, CASE[0].pooled(CASE[2]), 0)


def replaced(index, value):
    inputs = arguments(*CASE)
    inputs[index] = value
    return inputs


ERRORS = [
    (
        replaced(0, torch.rand(2, 130)),
        r"x: expected .* \(batch, 130, channels\), got float32 \(2, 130\)",
    ),
    (
        replaced(0, torch.rand(2, 131, 4)),
        r"x: expected .* \(batch, 130, channels\), got float32 \(2, 131, 4\)",
    ),
    (replaced(0, torch.rand(2, 130, 4).double()), "x: expected float32, float16 or bfloat16"),
    (replaced(1, (0, 13)), r"grid: expected two numbers of at least 1, got \(0, 13\)"),
    (replaced(2, (0, 13)), r"tile: expected two numbers of at least 1, got \(0, 13\)"),
    (replaced(3, (4, 0)), r"offset: expected less than the tile \(4, 5\), got \(4, 0\)"),
    (replaced(3, (0, -1)), r"offset: expected two numbers of at least 0, got \(0, -1\)"),
    (replaced(4, (0, 1)), r"window: expected one or two numbers of at least 1, got \(0, 1\)"),
    (replaced(5, (2, 2, 2)), r"stride: expected one or two numbers of at least 1, got \(2, 2, 2\)"),
    (replaced(5, (2,)), r"stride: expected as many numbers as window \(3, 2\), got \(2\)"),
    (replaced(6, "mean"), 'mode: expected "avg" or "max", got "mean"'),
    (replaced(7, [0.5, 1.5]), r"blends: expected 0 to 1 each, got 1\.5"),
    (replaced(7, [float("nan")]), r"blends: expected 0 to 1 each, got nan"),
]


@pytest.mark.parametrize(("inputs", "message"), ERRORS, ids=[message for _, message in ERRORS])
def test_errors_name_the_argument(inputs, message, device):
    with pytest.raises(RuntimeError, match=message):
        OPERATOR(*on(device, inputs))


def test_what_is_no_grid():
    with pytest.raises(TypeError, match=r"^grid: expected rows and columns, or a Tiling, got 6"):
        pool_tokens(torch.randn(1, 6, 4), 6, (1, 1), (1, 1))
