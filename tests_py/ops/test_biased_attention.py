# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The operator biased_attention: exactness, infinities, strides, registration, errors."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from moving import exact, on

from attnpatch import _core
from attnpatch.ops import biased_attention, biased_attention_reference, library, plain

OPERATOR = torch.ops.attnpatch.biased_attention.default
BOUNDS = {torch.float32: 6e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
FORMS = {
    "operator": OPERATOR,
    "plain": plain.biased_attention,
    "reference": biased_attention_reference,
}
LAYOUTS = {
    "heads in a row": lambda t: t,
    "heads apart": lambda t: t.contiguous(),
    "channels apart": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
    "tokens with gaps": lambda t: t.repeat_interleave(2, dim=2)[:, :, ::2],
}


def make_inputs(
    batch=2,
    heads=4,
    queries=37,
    keys=29,
    size=40,
    terms=2,
    kv_heads=None,
    dtype=torch.float32,
    rows=(1, None),
    seed=0,
):
    """Arguments of the operator, laid out as hosts hand them over: heads side by side in a row."""
    g = torch.Generator().manual_seed(seed)

    def heads_of(tokens, count):
        flat = torch.randn(batch, tokens, count * size, generator=g).to(dtype)
        return flat.view(batch, tokens, count, size).transpose(1, 2)

    q, k, v = (
        heads_of(tokens, count)
        for tokens, count in ((queries, heads), *[(keys, kv_heads or heads)] * 2)
    )
    biases = [
        torch.randn(batch if row is None else row, tokens, terms, generator=g)
        for row, tokens in zip(rows, (queries, keys), strict=True)
    ]
    return [q, k, v, *biases]


def bias_of(query_bias, key_bias):
    """The bias whole, in float64: 0 times an infinity is 0."""
    u, w = exact(query_bias)[:, :, None], exact(key_bias)[:, None]
    products = torch.where((u == 0) & w.isinf() | (w == 0) & u.isinf(), 0.0, u * w)
    return products.sum(dim=3)[:, None]


def formula(inputs, scale=None):
    """What the operator computes, in float64 on the CPU."""
    q, k, v = exact(inputs[:3])
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
    scores = q @ k.mT * (q.shape[3] ** -0.5 if scale is None else scale)
    return (scores + bias_of(*inputs[3:5])).softmax(dim=3) @ v


def assert_close(found, expected, bound):
    torch.testing.assert_close(
        exact(found), expected, rtol=bound, atol=bound, equal_nan=True, check_stride=False
    )


SHAPES = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 3),
        "queries": st.integers(1, 70),
        "keys": st.integers(1, 150),
        "size": st.integers(1, 50) | st.sampled_from([64, 128, 160]),
        "terms": st.integers(0, 16),
        "dtype": st.sampled_from(list(BOUNDS)),
    }
)
INFINITIES = [0.0, -math.inf, 1.0, -1.0, math.inf]


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=60)
@given(
    shape=SHAPES,
    groups=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    rows=st.tuples(st.sampled_from([1, None]), st.sampled_from([1, None])),
    layouts=st.tuples(*[st.sampled_from(list(LAYOUTS))] * 3),
    scale=st.sampled_from([None, 0.15, 0.02]),
)
def test_equals_the_formula(device, form, shape, groups, rows, layouts, scale):
    kv_heads, group = groups
    inputs = make_inputs(**shape, heads=kv_heads * group, kv_heads=kv_heads, rows=rows)
    expected = formula(inputs, scale)
    inputs[:3] = [LAYOUTS[name](t) for name, t in zip(layouts, inputs[:3], strict=True)]
    out = FORMS[form](*on(device, inputs), scale)
    assert out.dtype == shape["dtype"]
    assert out.transpose(1, 2).is_contiguous()
    # Scores of sixteen products are some tens: rounding them shows.
    bound = BOUNDS[out.dtype] * (1 + shape["terms"] / 4)
    assert_close(out, expected, bound)


@st.composite
def infinite_biases(draw, values=INFINITIES):
    """Factors that are 0, ones and infinities, in all combinations that fit the shape."""
    terms, queries, keys = draw(st.integers(1, 4)), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    value = st.sampled_from(values)

    def bias(tokens):
        row = st.lists(value, min_size=terms, max_size=terms)
        return torch.tensor([draw(st.lists(row, min_size=tokens, max_size=tokens))])

    return bias(queries), bias(keys)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=200)
@given(
    biases=infinite_biases(), dtype=st.sampled_from(list(BOUNDS)), large=st.sampled_from([1, 60])
)
def test_infinities_are_those_of_the_formula(device, form, biases, dtype, large):
    """Keys that leave have no weight, queries without keys or with plus infinity no number."""
    query_bias, key_bias = biases
    inputs = make_inputs(2, 2, query_bias.shape[1], key_bias.shape[1], 8, 1, dtype=dtype)
    inputs[0] *= large  # scores of hundreds bring no key back
    inputs[3:] = biases
    out = FORMS[form](*on(device, inputs))
    assert_close(out, formula(inputs), BOUNDS[dtype] * (1 if large == 1 else 30))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("factor", [1.0, 1e-30, 1e3])
def test_keys_that_leave_are_as_good_as_cut_off(form, dtype, factor, device):
    """However small the query's factor and however large their scores; blocks of them and more."""
    inputs = make_inputs(1, 2, 20, 400, 16, 1, dtype=dtype)
    inputs[1][:, :, :300] *= 1e4
    inputs[3].fill_(factor)
    inputs[4].zero_()
    inputs[4][:, :300] = -math.inf
    inputs[2][:, :, :300] = 7.0
    out = exact(FORMS[form](*on(device, inputs)))
    cut = [inputs[0], *(t[:, :, 300:] for t in inputs[1:3]), inputs[3], inputs[4][:, 300:]]
    assert_close(out, formula(cut), BOUNDS[dtype])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_a_query_without_keys_is_no_number(form, dtype, device):
    inputs = make_inputs(dtype=dtype, rows=(1, 1))
    inputs[3][0, 5] = 0.0  # only this one keeps its keys
    inputs[3][0, :5] = 1.0
    inputs[3][0, 6:] = 0.5
    inputs[4][:, :, 0] = torch.where(torch.arange(29) % 2 == 0, -math.inf, 0.0)
    inputs[4][:, :, 1] = torch.where(torch.arange(29) % 2 == 1, -math.inf, 0.0)
    out = FORMS[form](*on(device, inputs))
    whole = out.isfinite().all(dim=3)
    assert whole[:, :, 5].all()
    assert whole.sum() == 2 * 4
    assert out.isnan().all(dim=3).sum() == 2 * 4 * 36


@pytest.mark.parametrize("form", FORMS)
def test_a_nan_in_a_bias_stays(form, device):
    inputs = make_inputs()
    inputs[3][0, 3, 1] = math.nan
    found = FORMS[form](*on(device, inputs)).isnan()
    assert found[:, :, 3].all()
    assert found.sum() == found[:, :, 3].numel()
    inputs = make_inputs()
    inputs[3][:] = 0.0
    inputs[4][1, 3, 1] = math.nan
    found = FORMS[form](*on(device, inputs)).isnan()
    assert found[1].all()
    assert not found[0].any()


@pytest.mark.parametrize("target", _core.cpu_targets())
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("terms", [1, 3, 16])
def test_every_instruction_set_equals_the_formula(target, dtype, terms):
    inputs = make_inputs(1, 2, 150, 270, 64, terms, dtype=dtype)
    inputs[3].abs_()
    inputs[4][:, 10:140, 0] = -math.inf
    try:
        _core.force_cpu_target(target)
        out = OPERATOR(*inputs)
    finally:
        _core.force_cpu_target("")
    assert_close(out, formula(inputs), BOUNDS[dtype] * (1 + terms / 4))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scale", [0.0, -0.2, 1e-5, 3.0, 40.0])
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_any_scale(form, scale, dtype, device):
    """Also those that the padded channels cannot take, and scores that leave a single key."""
    inputs = make_inputs(dtype=dtype)
    out = FORMS[form](*on(device, inputs), scale)
    assert_close(out, formula(inputs, scale), BOUNDS[dtype] * (1 + 40 * abs(scale)))


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("terms", [1, 16])
def test_error_is_that_of_torch_with_the_whole_bias(dtype, terms, device):
    """Of every form, in norms, to a quarter: torch adds up otherwise on another processor."""
    inputs = make_inputs(1, 4, 200, 300, 64, terms, dtype=dtype)
    inputs[3:] = [2 * t / terms**0.5 for t in inputs[3:]]
    expected = formula(inputs)
    theirs = F.scaled_dot_product_attention(
        *inputs[:3], attn_mask=bias_of(*inputs[3:]).to(dtype).expand(1, 4, -1, -1)
    )
    for name, form in FORMS.items():
        ours = (exact(form(*on(device, inputs))) - expected).norm()
        assert ours <= 1.25 * (exact(theirs) - expected).norm(), name


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("scale", [2.0**-12, 0.088, 1.0, 16.0])
@settings(max_examples=80)
@given(factors=st.tuples(*[st.floats(-60, 60, width=32)] * 2))
def test_padded_channels_keep_the_bits_of_their_products(dtype, scale, factors):
    """The bound that is stated: of the channels in exact arithmetic."""
    u, w = factors
    if dtype is torch.float16:
        u = max(min(u, 32000 * scale), -32000 * scale)
    q = torch.zeros(1, 1, 1, 8, dtype=dtype)
    biases = [torch.full((1, 1, 1), factor) for factor in (u, w)]
    u, w = map(float, biases)
    queries, keys, _ = plain.padded(q, q, q, *biases, scale)
    found = float(exact(queries).flatten() @ exact(keys).flatten()) * scale
    units = {torch.float32: 2.0**-24, torch.float16: 2.0**-22, torch.bfloat16: 2.0**-16}
    relative = 3 * units[dtype]
    small = 2.0**-21 * (abs(u) + abs(w)) if dtype is torch.float16 else 1e-30
    assert abs(found - u * w) <= relative * abs(u * w) + small


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_padded_tensors_serve_any_backend(dtype):
    """One written out here, with one value too few to hide anything."""
    inputs = make_inputs(2, 6, 21, 33, 36, 2, 3, dtype)
    inputs[3].abs_()
    inputs[3][0, ::3, 0] = 0.0
    inputs[4][:, 3:9, 0] = -math.inf
    scale = 36**-0.5
    q, k, v = plain.padded(*inputs)
    assert {t.dtype for t in (q, k, v)} == {dtype}
    assert q.shape[3] == k.shape[3] == v.shape[3]
    assert q.shape[3] % 8 == 0
    assert (k.shape[1], v.shape[1]) == (3, 3)
    assert all(torch.equal(p[..., :36], t) for p, t in zip((q, k, v), inputs[:3], strict=True))
    scores = (exact(q) @ exact(k).repeat_interleave(2, dim=1).mT) * scale
    out = (scores.softmax(dim=3) @ exact(v).repeat_interleave(2, dim=1)).to(dtype)
    assert_close(out[..., :36], formula(inputs), BOUNDS[dtype])
    assert torch.equal(plain.unpadded(out, inputs[3], 36), out[..., :36])


@pytest.mark.parametrize("scale", [0.0, -1.0, 1e-5, 17.0, math.nan])
def test_padded_tensors_want_a_scale_that_they_can_undo(scale):
    with pytest.raises(ValueError, match=r"^scale: expected a number from .* to 16, got "):
        plain.padded(*make_inputs(), scale)


@pytest.mark.parametrize("dtype", [*BOUNDS, torch.float64], ids=str)
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("backend", [None, "plain", "reference"])
@pytest.mark.parametrize("terms", [0, None])
def test_no_terms_are_torchs_own_attention(dtype, kv_heads, backend, terms, monkeypatch, device):
    monkeypatch.setattr(library, "_FORCED", backend)
    inputs = on(device, make_inputs(kv_heads=kv_heads, terms=0, dtype=dtype))
    q, k, v, *biases = inputs
    theirs = F.scaled_dot_product_attention(q, k, v, scale=0.2, enable_gqa=kv_heads != 4)
    out = biased_attention(q, k, v, *(biases if terms == 0 else []), scale=0.2)
    assert torch.equal(out, theirs)
    assert out.stride() == theirs.stride()


def test_biases_of_zeros_change_nothing(device):
    inputs = on(device, make_inputs())
    inputs[3].zero_()
    assert_close(OPERATOR(*inputs), formula(inputs), 2e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("gradient", [False, True])
def test_opcheck(gradient, device):
    inputs = on(device, make_inputs(1, 2, 5, 4, 8))
    for tensor in inputs:
        tensor.requires_grad_(gradient)
    torch.library.opcheck(OPERATOR, tuple(inputs))


def test_gradients_are_those_of_the_formula(device):
    """To all five tensors, with one key gone; numbers, not only agreement with the reference."""

    def gradients(function, dtype):
        inputs = make_inputs(2, 4, 7, 6, 8, 2, 2)
        inputs[3].abs_()
        leaves = [t.to(device, dtype).requires_grad_() for t in inputs]
        function(*leaves).square().sum().backward()
        return [leaf.grad.cpu().double() for leaf in leaves]

    def whole(q, k, v, u, w):
        k, v = (t.repeat_interleave(2, dim=1) for t in (k, v))
        scores = q @ k.mT / 8**0.5 + (u @ w.mT)[:, None]
        return scores.softmax(dim=3) @ v

    for ours, expected in zip(
        gradients(biased_attention, torch.float32), gradients(whole, torch.float64), strict=True
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_a_key_that_left_has_no_gradient(device):
    inputs = on(device, make_inputs(1, 2, 7, 6, 8, 1))
    inputs[3].abs_()
    inputs[4][0, 2] = -math.inf
    leaves = [t.requires_grad_() for t in inputs]
    biased_attention(*leaves).square().sum().backward()
    assert all(leaf.grad.isfinite().all() for leaf in leaves)
    for leaf in leaves[1:3]:
        assert not leaf.grad[:, :, 2].any()
        assert leaf.grad[:, :, 1].any()
    assert leaves[4].grad[0, 2] == 0.0
    assert leaves[3].grad.any()


@pytest.mark.parametrize("backend", [None, "plain", "reference"])
def test_compiles_whole(backend, device, monkeypatch):
    monkeypatch.setattr(library, "_FORCED", backend)
    inputs = on(device, make_inputs())
    compiled = torch.compile(biased_attention, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), biased_attention(*inputs))
    torch.testing.assert_close(compiled(*inputs[:3]), biased_attention(*inputs[:3]))


@pytest.mark.parametrize("terms", [2, 0])
def test_autocast_casts_the_tensors_and_leaves_the_biases(terms, device):
    inputs = on(device, make_inputs(terms=terms))
    inputs[0] = inputs[0].half()
    with torch.autocast(device.type, dtype=torch.bfloat16):
        out = biased_attention(*inputs)
    assert out.dtype == torch.bfloat16
    assert_close(out, formula(on(torch.device("cpu"), inputs)), 3e-2)


def test_threads_change_no_bit():
    inputs = make_inputs(1, 3, 300, 300, 64)
    alone = OPERATOR(*inputs)
    torch.set_num_threads(3)
    assert torch.equal(OPERATOR(*inputs), alone)


def test_inputs_stay_as_they_were(device):
    for form in FORMS.values():
        inputs = on(device, make_inputs())
        before = [t.clone() for t in inputs]
        form(*inputs)
        assert all(map(torch.equal, before, inputs))


@pytest.mark.parametrize("form", FORMS)
def test_empty_inputs_have_defined_results(form, device):
    for empty in ({"batch": 0}, {"heads": 0}, {"queries": 0}, {"size": 0}):
        inputs = on(device, make_inputs(**empty))
        assert FORMS[form](*inputs).shape == inputs[0].shape
    out = FORMS[form](*on(device, make_inputs(keys=0)))
    assert out.shape == (2, 4, 37, 40)
    assert out.isnan().all()


def replaced(index, value, **options):
    inputs = make_inputs(**options)
    inputs[index] = value
    return inputs


ERRORS = [
    (
        replaced(3, torch.rand(3, 37, 2)),
        r"^query_bias: expected float32 \(1 or batch, 37, 0 to 16\) on the device of q, "
        r"got float32 \(3, 37, 2\)",
    ),
    (
        make_inputs(terms=17),
        r"^query_bias: expected float32 \(1 or batch, 37, 0 to 16\) .*, got float32 \(1, 37, 17\)",
    ),
    (
        replaced(4, torch.rand(2, 29, 3)),
        r"^key_bias: expected float32 \(1 or batch, 29, 2\) .*, got float32 \(2, 29, 3\)",
    ),
    (replaced(4, torch.rand(29, 2)), r"^key_bias: expected .* \(1 or batch, 29, 2\)"),
    (replaced(3, torch.rand(1, 37, 2).half()), r"^query_bias: expected float32 .*, got float16"),
    (replaced(4, None), "^query_bias, key_bias: expected both or none, got one"),
    (replaced(3, None, terms=0), "^query_bias, key_bias: expected both or none, got one"),
    (replaced(4, None, terms=0), "^query_bias, key_bias: expected both or none, got one"),
    (replaced(1, torch.rand(2, 3, 29, 40), terms=0), r"^k: expected .* \(2, 4 or a divisor"),
]


@pytest.mark.parametrize(("inputs", "message"), ERRORS, ids=[message for _, message in ERRORS])
def test_errors_name_the_argument(inputs, message, device):
    with pytest.raises(RuntimeError, match=message):
        biased_attention(*on(device, inputs))


@pytest.mark.parametrize("place", range(5))
def test_what_is_no_tensor_is_named_without_terms_too(place):
    inputs = make_inputs(terms=0)
    inputs[place] = [1.0]
    name = ("q", "k", "v", "query_bias", "key_bias")[place]
    with pytest.raises(TypeError, match=f"^{name}: expected a tensor, got list$"):
        biased_attention(*inputs)
