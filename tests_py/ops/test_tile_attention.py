# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The operator tile_attention: exactness, strides, registration, compilation, errors."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from moving import exact, on
from tilings import tiles_of, tilings

from attnpatch import _core
from attnpatch.ops import Tiling, tile_attention, tile_attention_reference

OPERATOR = torch.ops.attnpatch.tile_attention.default
BOUNDS = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
TILING = Tiling((10, 13), (4, 5), (1, 2))


def make_inputs(
    tiling=TILING,
    stride=(),
    shared=6,
    batch=2,
    heads=3,
    size=40,
    dtype=torch.float32,
    device="cpu",
):
    """Arguments of the operator, laid out as hosts hand them over: heads side by side in a row."""
    g = torch.Generator().manual_seed(0)

    def heads_of(tokens):
        flat = torch.randn(batch, tokens, heads * size, generator=g).to(device, dtype)
        return flat.view(batch, tokens, heads, size).transpose(1, 2)

    q, k, v = heads_of(tiling.pooled(())), *(heads_of(tiling.pooled(stride)) for _ in range(2))
    far = [heads_of(shared) for _ in range(2)] if shared is not None else [None, None]
    return [q, k, v, tiling.grid, tiling.tile, tiling.offset, stride, *far]


def formula(inputs):
    """What the operator computes, in float64 on the CPU, one tile at a time."""
    q, k, v, grid, tile, offset, stride, shared_k, shared_v = exact(inputs)
    out, first = torch.full_like(q, torch.nan), 0
    for places in tiles_of(Tiling(grid, tile, offset)):
        if not stride:
            own = places.flatten()
        else:
            count = len(places.flatten()[:: stride[0]])
            if len(stride) == 2:
                count = places[:: stride[0], :: stride[1]].size
            own = torch.arange(first, first + count)
            first += count
        keys, values = k[:, :, own], v[:, :, own]
        if shared_k is not None:
            keys = torch.cat([keys, shared_k], dim=2)
            values = torch.cat([values, shared_v], dim=2)
        scores = q[:, :, places.flatten()] @ keys.transpose(2, 3) / q.shape[3] ** 0.5
        out[:, :, places.flatten()] = scores.softmax(dim=3) @ values
    return out


STRIDES = st.one_of(
    st.tuples(st.integers(1, 9)), st.tuples(st.integers(1, 5), st.integers(1, 5)), st.just(())
)


@settings(max_examples=40, deadline=None)
@given(
    tiling=tilings(largest=9),
    stride=STRIDES,
    shared=st.one_of(st.none(), st.integers(0, 40)),
    heads=st.integers(1, 3),
    size=st.integers(1, 50),
    function=st.sampled_from([OPERATOR, tile_attention_reference]),
)
def test_equals_the_formula_for_every_tiling(device, tiling, stride, shared, heads, size, function):
    inputs = make_inputs(tiling, stride, shared, 2, heads, size, device=device)
    torch.testing.assert_close(exact(function(*inputs)), formula(inputs), rtol=0, atol=4e-6)


@pytest.mark.parametrize("target", _core.cpu_targets())
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("stride", [(), (2, 2), (3,)], ids=str)
def test_every_instruction_set_equals_the_formula(target, dtype, stride):
    tiling = Tiling((30, 35), (15, 15), (4, 0))
    inputs = make_inputs(tiling, stride, 70, heads=2, size=64, dtype=dtype)
    try:
        _core.force_cpu_target(target)
        out = OPERATOR(*inputs)
    finally:
        _core.force_cpu_target("")
    assert out.dtype == dtype
    bound = BOUNDS[dtype]
    torch.testing.assert_close(exact(out), formula(inputs), rtol=bound, atol=bound)


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("stride", [(), (2, 2), (3,)], ids=str)
def test_equals_the_formula_in_every_dtype(dtype, stride, device):
    tiling = Tiling((30, 35), (15, 15), (4, 0))
    inputs = make_inputs(tiling, stride, 70, heads=2, size=64, dtype=dtype, device=device)
    bound = BOUNDS[dtype]
    torch.testing.assert_close(exact(OPERATOR(*inputs)), formula(inputs), rtol=bound, atol=bound)


@settings(max_examples=50, deadline=None)
@given(tilings(largest=9), st.one_of(st.none(), st.integers(0, 9)))
def test_one_tile_over_the_grid_is_plain_attention(device, tiling, shared):
    inputs = make_inputs(Tiling(tiling.grid, tiling.grid), (), shared, size=16, device=device)
    q, k, v, *_, shared_k, shared_v = exact(inputs)
    if shared is not None:
        k, v = torch.cat([k, shared_k], dim=2), torch.cat([v, shared_v], dim=2)
    expected = F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(exact(OPERATOR(*inputs)), expected, rtol=0, atol=4e-6)


@settings(max_examples=50, deadline=None)
@given(tilings(largest=9), STRIDES)
def test_equal_values_come_out_as_they_are(device, tiling, stride):
    """Softmax weights add up to one in every tile, and every query has its place."""
    inputs = make_inputs(tiling, stride, None, size=5, device=device)
    inputs[2] = inputs[2][:, :, :1].expand(-1, -1, inputs[1].shape[2], -1)
    expected = inputs[2][:, :, :1].expand_as(inputs[0])
    torch.testing.assert_close(OPERATOR(*inputs), expected, rtol=0, atol=4e-6, check_stride=False)


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_error_is_at_most_that_of_torch(dtype, device):
    """One tile of many keys, against torch's own attention in the same dtype."""
    inputs = make_inputs(Tiling((24, 24), (24, 24)), (), 200, 1, 4, 64, dtype, device)
    q, k, v, *_, shared_k, shared_v = inputs
    theirs = F.scaled_dot_product_attention(
        q, torch.cat([k, shared_k], dim=2), torch.cat([v, shared_v], dim=2)
    )
    expected = formula(inputs)
    # On CUDA torch's own kernel computes as ours does, in another order.
    slack = 1.0 if device.type == "cpu" else 1.1
    ours = (exact(OPERATOR(*inputs)) - expected).norm()
    assert ours <= slack * (exact(theirs) - expected).norm()


@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_any_scale(scale, device):
    """Also one whose scores are so large that a single key counts."""
    inputs = make_inputs(device=device)
    expected = formula([inputs[0] * scale * 40**0.5, *inputs[1:]])
    out = OPERATOR(*inputs, scale)
    torch.testing.assert_close(exact(out), expected, rtol=0, atol=1e-4)


def test_scores_that_grow_from_key_to_key_lose_nothing(device):
    """The running maximum of the softmax changes all the time."""
    tiling = Tiling((20, 20), (20, 20))
    inputs = make_inputs(tiling, (), 300, 1, 1, 4, device=device)
    inputs[0][..., 0] = 1.0
    inputs[1][..., 0] = torch.linspace(0, 90, 400)[None, None]
    inputs[7][..., 0] = torch.linspace(90, 190, 300)[None, None]
    torch.testing.assert_close(exact(OPERATOR(*inputs)), formula(inputs), rtol=0, atol=1e-4)


def test_any_strides_give_the_same(device):
    inputs = make_inputs(stride=(2, 2), device=device)
    channels_apart = [
        t.transpose(2, 3).contiguous().transpose(2, 3) if torch.is_tensor(t) else t for t in inputs
    ]
    every_second = [
        t.repeat_interleave(2, dim=2)[:, :, ::2] if torch.is_tensor(t) else t for t in inputs
    ]
    contiguous = [t.contiguous() if torch.is_tensor(t) else t for t in inputs]
    expected = OPERATOR(*inputs)
    for variant in (contiguous, channels_apart, every_second):
        assert torch.equal(OPERATOR(*variant), expected)


def test_shared_keys_may_be_a_part_of_the_same_tensor(device):
    inputs = make_inputs(stride=(2, 2), device=device)
    expected = OPERATOR(*inputs)
    own = inputs[1].shape[2]
    for i in (1, 2):
        whole = torch.cat([inputs[i], inputs[i + 6]], dim=2)
        inputs[i], inputs[i + 6] = whole[:, :, :own], whole[:, :, own:]
    assert torch.equal(OPERATOR(*inputs), expected)


def test_joining_the_heads_of_the_result_is_a_view(device):
    out = OPERATOR(*make_inputs(device=device))
    assert out.transpose(1, 2).flatten(2).data_ptr() == out.data_ptr()
    assert tile_attention_reference(*make_inputs()).stride() == out.stride()


def test_a_nan_in_a_key_stays_in_its_tile(device):
    inputs = make_inputs(shared=None, device=device)
    inputs[1][0, 1, 0] = float("nan")
    found = OPERATOR(*inputs).isnan()
    first = tiles_of(TILING)[0].flatten()
    assert found[0, 1, first].all()
    assert found.sum() == len(first) * 40


def test_the_public_function_takes_a_tiling(device):
    q, k, v, *_, shared_k, shared_v = inputs = make_inputs(stride=(2, 2), device=device)
    out = tile_attention(q, k, v, TILING, (2, 2), shared_k, shared_v)
    assert torch.equal(out, OPERATOR(*inputs))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize(("gradient", "shared"), [(False, None), (True, 3)])
def test_opcheck(gradient, shared, device):
    inputs = make_inputs(Tiling((4, 5), (2, 5)), shared=shared, size=8, device=device)
    for tensor in inputs[:3]:
        tensor.requires_grad_(gradient)
    torch.library.opcheck(OPERATOR, tuple(inputs))


def test_gradients_are_those_of_the_reference(device):
    def gradients(function):
        inputs = make_inputs(stride=(2, 2), size=8, device=device)
        leaves = [t.requires_grad_() for t in inputs if torch.is_tensor(t)]
        function(*inputs).square().sum().backward()
        return [leaf.grad for leaf in leaves]

    for ours, expected in zip(
        gradients(OPERATOR), gradients(tile_attention_reference), strict=True
    ):
        torch.testing.assert_close(ours, expected)


def test_compiles_whole(device):
    q, k, v, *_, shared_k, shared_v = inputs = make_inputs(stride=(2, 2), device=device)
    compiled = torch.compile(tile_attention, fullgraph=True, backend="aot_eager")
    out = compiled(q, k, v, TILING, (2, 2), shared_k, shared_v)
    torch.testing.assert_close(out, OPERATOR(*inputs))


def test_autocast_casts_the_tensors(device):
    inputs = make_inputs(device=device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        out = OPERATOR(*inputs)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), OPERATOR(*inputs), rtol=2e-2, atol=2e-2)


def test_threads_change_no_bit():
    inputs = make_inputs(Tiling((30, 35), (15, 15), (4, 0)))
    alone = OPERATOR(*inputs)
    torch.set_num_threads(3)
    assert torch.equal(OPERATOR(*inputs), alone)


def test_inputs_stay_as_they_were(device):
    inputs = make_inputs(device=device)
    before = [t.clone() for t in inputs if torch.is_tensor(t)]
    OPERATOR(*inputs)
    assert all(map(torch.equal, before, (t for t in inputs if torch.is_tensor(t))))


def test_empty_inputs_have_defined_results(device):
    assert OPERATOR(*make_inputs(batch=0, device=device)).shape == (0, 3, 130, 40)
    assert OPERATOR(*make_inputs(heads=0, device=device)).shape == (2, 0, 130, 40)
    assert OPERATOR(*make_inputs(size=0, device=device)).shape == (2, 3, 130, 0)


def replaced(index, value, **options):
    inputs = make_inputs(**options)
    inputs[index] = value
    return inputs


ERRORS = [
    (
        replaced(0, torch.rand(2, 130, 120)),
        r"q: expected .* \(batch, heads, 130, head size\), got float32 \(2, 130, 120\)",
    ),
    (
        replaced(0, torch.rand(2, 3, 129, 40)),
        r"q: expected .* \(batch, heads, 130, head size\), got float32 \(2, 3, 129, 40\)",
    ),
    (
        replaced(1, torch.rand(2, 3, 130, 41)),
        r"^k: expected .* \(2, 3 or a divisor, 130, 40\) .*, got float32 \(2, 3, 130, 41\)",
    ),
    (
        replaced(1, torch.rand(2, 3, 131, 40)),
        r"^k: expected .* \(2, 3 or a divisor, 130, 40\) .*, got float32 \(2, 3, 131, 40\)",
    ),
    (replaced(2, torch.rand(2, 3, 131, 40)), r"^v: expected .* \(2, 3, 130, 40\)"),
    (
        replaced(6, (3, 3), stride=(2, 2)),
        r"^k: expected float32 \(2, 3 or a divisor, \d+, 40\) .*, got float32 \(2, 3, \d+, 40\)",
    ),
    (
        replaced(1, torch.rand(1, 3, 130, 40)),
        r"^k: expected .* \(2, 3 or a divisor, 130, 40\) .*, got float32 \(1, 3, 130, 40\)",
    ),
    (replaced(2, torch.rand(2, 3, 130, 40).half()), "^v: expected float32 .*, got float16"),
    (replaced(8, None), "shared_k, shared_v: expected both or none"),
    (replaced(7, torch.rand(2, 3, 7, 40)), r"shared_v: expected .* \(2, 3, 7, 40\)"),
    (replaced(4, (0, 1)), r"tile: expected two numbers of at least 1, got \(0, 1\)"),
    (replaced(5, (0, 5)), r"offset: expected less than the tile \(4, 5\), got \(0, 5\)"),
    (replaced(6, (0,)), r"stride: expected one or two numbers of at least 1, got \(0\)"),
    ([t.double() if torch.is_tensor(t) else t for t in make_inputs()], "q: expected float32"),
]


@pytest.mark.parametrize(("inputs", "message"), ERRORS, ids=[message for _, message in ERRORS])
def test_errors_name_the_argument(inputs, message, device):
    with pytest.raises(RuntimeError, match=message):
        OPERATOR(*on(device, inputs))


def test_what_is_no_tiling():
    q, k, v = (torch.randn(1, 2, 6, 8) for _ in "qkv")
    with pytest.raises(TypeError, match=r"^tiling: expected a Tiling, got \(2, 3\)"):
        tile_attention(q, k, v, (2, 3))
