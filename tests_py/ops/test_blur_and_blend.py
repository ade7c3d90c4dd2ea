# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The operator blur_and_blend: exactness, borders, sigmas, masks, registration, errors."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from moving import exact, on

from attnpatch import _core
from attnpatch.ops import blur_and_blend, blur_and_blend_reference

OPERATOR = torch.ops.attnpatch.blur_and_blend.default
FUNCTIONS = [OPERATOR, blur_and_blend_reference]
BOUNDS = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def make_inputs(
    batch=2, channels=3, side=(24, 17), grid=(3, 3), dtype=torch.float32, seed=0, device="cpu"
):
    g = torch.Generator().manual_seed(seed)
    x0 = torch.randn(batch, channels, *side, generator=g).to(dtype)
    return on(device, (x0, 2 * torch.rand(batch, *grid, generator=g)))


def blur_matrix(size, sigma, kernel_size):
    """(size, size), float64: one axis of the blur, walking every tap back and forth."""
    radius = kernel_size // 2
    taps = [math.exp(-0.5 * (x / sigma) ** 2) for x in range(-radius, radius + 1)]
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for i in range(size):
        for offset, tap in zip(range(-radius, radius + 1), taps, strict=True):
            place, step = i, 1 if offset > 0 else -1
            for _ in range(abs(offset) if size > 1 else 0):
                if not 0 <= place + step < size:
                    step = -step
                place += step
            matrix[i, place] += tap / sum(taps)
    return matrix


def formula(x0, saliency, sigma, threshold=1.0, kernel_size=9):
    """What the operator computes, in float64, on the CPU."""
    x0, saliency = exact(x0), saliency.cpu()
    height, width = x0.shape[2:]
    down, across = (blur_matrix(n, sigma, kernel_size) for n in (height, width))
    blurred = down @ x0 @ across.T
    mask = (saliency > threshold)[:, None].float()
    return torch.where(F.interpolate(mask, (height, width)) > 0, blurred, x0)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_equals_the_formula(function, dtype, device):
    inputs = make_inputs(dtype=dtype, device=device)
    out = function(*inputs, 2.0)
    assert out.dtype == dtype
    assert out.is_contiguous()
    bound = BOUNDS[dtype]
    torch.testing.assert_close(exact(out), formula(*inputs, 2.0), rtol=bound, atol=bound)


@settings(max_examples=80, deadline=None)
@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 4),
    side=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    grid=st.tuples(st.integers(1, 45), st.integers(1, 45)),
    sigma=st.floats(0.05, 10.0) | st.just(math.inf),
    threshold=st.floats(0.0, 2.0),
    kernel_size=st.integers(0, 10).map(lambda n: 2 * n + 1),
    seed=st.integers(0, 1000),
)
def test_equals_the_formula_for_every_shape(
    batch, channels, side, grid, sigma, threshold, kernel_size, seed, device
):
    inputs = make_inputs(batch, channels, side, grid, seed=seed, device=device)
    expected = formula(*inputs, sigma, threshold, kernel_size)
    for function in FUNCTIONS:
        out = function(*inputs, sigma, threshold, kernel_size)
        torch.testing.assert_close(exact(out), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("target", _core.cpu_targets())
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_every_instruction_set_equals_the_formula(target, dtype):
    inputs = make_inputs(side=(70, 45), dtype=dtype)
    try:
        _core.force_cpu_target(target)
        out = OPERATOR(*inputs, 1.5)
    finally:
        _core.force_cpu_target("")
    bound = BOUNDS[dtype]
    torch.testing.assert_close(out.double(), formula(*inputs, 1.5), rtol=bound, atol=bound)


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_error_is_at_most_that_of_torch(dtype, device):
    x0, _ = make_inputs(side=(64, 64), dtype=dtype, device=device)
    everywhere = torch.full((2, 1, 1), 2.0, device=device)
    taps = torch.exp(-0.5 * (torch.arange(-4.0, 5.0) / 2) ** 2)
    kernel = torch.outer(taps, taps) / taps.sum() ** 2
    kernel = kernel.to(device, dtype).expand(3, 1, 9, 9)
    composed = F.conv2d(F.pad(x0, (4, 4, 4, 4), mode="reflect"), kernel, groups=3)
    expected = formula(x0, everywhere, 2.0)
    ours = (exact(OPERATOR(x0, everywhere, 2.0)) - expected).norm()
    assert ours <= (exact(composed) - expected).norm()


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("sigma", [0.0, 5e-324, 1e-200, 1e-30])
def test_no_sigma_and_tiny_ones_change_no_bit(function, sigma, device):
    x0, saliency = make_inputs(device=device)
    assert torch.equal(function(x0, saliency, sigma), x0)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_mask_decides_alone(function, device):
    x0, saliency = make_inputs(side=(16, 16), grid=(2, 2), device=device)
    saliency[0] = torch.tensor([[1.0, 1.1], [float("nan"), float("-inf")]])
    x0[0, :, :8, :8] = float("nan")
    x0[0, 0, 15, 0] = float("inf")
    out = function(x0, saliency, 2.0)
    assert torch.equal(out[0, :, 8:], x0[0, :, 8:])  # blurred infinities stay outside
    assert torch.isnan(out[0, :, :8, :8]).all()
    assert torch.isfinite(out[0, :, :8, 12:]).all()
    untouched = function(x0, saliency, 2.0, threshold=math.inf)
    torch.testing.assert_close(untouched, x0, rtol=0, atol=0, equal_nan=True)


def test_the_nearest_neighbour_is_that_of_torch():
    coarse = torch.arange(1.0, 14.0).view(1, 1, 13)
    for size in range(2, 130):
        # An impulse in a kernel that reaches everywhere: what is blurred has changed.
        x0 = F.one_hot(torch.tensor([[[0]]]), size).float()
        for threshold in (4.5, 9.5):
            mask = F.interpolate((coarse > threshold)[:, None].float(), (1, size))
            blurred = OPERATOR(x0, coarse, math.inf, threshold, 2 * size + 1)
            assert torch.equal(blurred != x0, mask > 0)


def test_a_picture_of_one_value_stays_so(device):
    x0 = torch.full((1, 2, 9, 5), 3.0, device=device)
    for kernel_size in (1, 3, 9, 101):
        out = blur_and_blend(x0, torch.full((1, 2, 2), 2.0, device=device), 2.0, 1.0, kernel_size)
        torch.testing.assert_close(out, x0)


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_any_strides_give_the_same(dtype, device):
    x0, saliency = make_inputs(dtype=dtype, device=device)
    expected = OPERATOR(x0, saliency, 2.0)
    for variant in (
        x0.contiguous(memory_format=torch.channels_last),
        x0.transpose(2, 3).contiguous().transpose(2, 3),
        x0.repeat_interleave(2, dim=3)[..., ::2],
        x0.repeat_interleave(3, dim=1)[:, ::3],
    ):
        assert torch.equal(OPERATOR(variant, saliency, 2.0), expected)
    apart = saliency.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(OPERATOR(x0, apart, 2.0), expected)
    one = x0[:1].expand(2, -1, -1, -1)
    assert torch.equal(OPERATOR(one, saliency, 2.0), OPERATOR(one.contiguous(), saliency, 2.0))


def test_threads_change_no_bit_and_inputs_stay():
    inputs = make_inputs(side=(200, 31))
    before = [t.clone() for t in inputs]
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(OPERATOR(*inputs, 2.0))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert all(map(torch.equal, before, inputs))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("gradient", [False, True])
def test_opcheck(gradient, device):
    x0, saliency = make_inputs(side=(6, 5), device=device)
    torch.library.opcheck(OPERATOR, (x0.requires_grad_(gradient), saliency, 2.0))


def test_gradients_are_those_of_the_formula(device):
    def gradient(function):
        x0, saliency = make_inputs(side=(6, 5), device=device)
        x0.requires_grad_()
        function(x0, saliency, 2.0).square().sum().backward()
        return x0.grad

    torch.testing.assert_close(gradient(OPERATOR), gradient(formula))


def test_compiles_whole_and_keeps_its_dtype_under_autocast(device):
    inputs = make_inputs(device=device)
    compiled = torch.compile(blur_and_blend, fullgraph=True, backend="aot_eager")
    expected = OPERATOR(*inputs, 2.0)
    assert torch.equal(compiled(*inputs, 2.0), expected)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert torch.equal(blur_and_blend(*inputs, 2.0), expected)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_empty_inputs_have_defined_results(function, device):
    for side in ((0, 5), (5, 0)):
        assert function(*make_inputs(side=side, device=device), 2.0).shape == (2, 3, *side)
    assert function(*make_inputs(batch=0, device=device), 2.0).shape == (0, 3, 24, 17)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((-1.0,), "sigma: expected a number of at least 0, got -1"),
        ((math.nan,), "sigma: expected a number of at least 0, got nan"),
        ((2.0, 1.0, 8), "kernel_size: expected an odd number of at least 1, got 8"),
        ((2.0, 1.0, -1), "kernel_size: expected an odd number of at least 1, got -1"),
    ],
)
def test_wrong_numbers_are_errors(function, numbers, message, device):
    with pytest.raises(RuntimeError, match=message):
        function(*make_inputs(device=device), *numbers)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            (torch.rand(3, 8, 8), torch.rand(1, 2, 2)),
            r"x0: expected .* \(batch, .*\), got float32 \(3, 8, 8\)",
        ),
        (
            (torch.rand(2, 3, 8, 8), torch.rand(1, 2, 2)),
            r"saliency: expected float32 \(2, rows, columns\) .*\(1, 2, 2\)",
        ),
        (
            (torch.rand(2, 3, 8, 8), torch.rand(2, 4)),
            r"saliency: expected float32 .*, got float32 \(2, 4\)",
        ),
        (
            (torch.rand(2, 3, 8, 8), torch.rand(2, 0, 4)),
            r"saliency: expected at least one row .*, got \(2, 0, 4\)",
        ),
        (
            (torch.rand(2, 3, 8, 8), torch.rand(2, 2, 2).half()),
            "saliency: expected float32 .*, got float16",
        ),
        ((torch.rand(2, 3, 8, 8).double(), torch.rand(2, 2, 2)), "x0: expected float32"),
    ],
)
def test_errors_name_the_argument(inputs, message, device):
    with pytest.raises(RuntimeError, match=message):
        OPERATOR(*on(device, inputs), 2.0)
