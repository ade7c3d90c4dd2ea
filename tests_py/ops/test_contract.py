# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What every operator owes on every device: the same checks, and results that are defined."""

import math
from itertools import product

import pytest
import torch
from calls import CALLS, changed, mapped, operator, outcome, public, random, reference, tensors_of
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from moving import on
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from attnpatch import _core, ops
from attnpatch.ops import library


def on_fakes(name, arguments):
    with FakeTensorMode() as mode:
        return outcome(operator(name), mapped(arguments, mode.from_tensor))


def on_symbols(name, arguments):
    """Fake tensors whose sizes are symbols, as where shapes are dynamic."""
    mode = FakeTensorMode(shape_env=ShapeEnv())
    with mode:
        return outcome(operator(name), mapped(arguments, mode.from_tensor))


def on_meta(name, arguments):
    return outcome(operator(name), mapped(arguments, lambda t: t.to("meta")))


BACKENDS = {
    "reference": lambda name, arguments: outcome(reference(name), arguments),
    "plain": lambda name, arguments: outcome(library.forms_of(name).plain, arguments),
    "operator with gradients": lambda name, arguments: outcome(
        operator(name),
        mapped(arguments, lambda t: t.requires_grad_() if t.is_floating_point() else t),
    ),
    "meta": on_meta,
    "fakes": on_fakes,
    "symbols": on_symbols,
}

BAD = [
    ("branch_attention", 0, random(2, 5, 24), "q: "),
    ("branch_attention", 0, torch.ones(2, 3, 5, 8, dtype=torch.int64), "q: "),
    ("branch_attention", 1, random(2, 2, 4, 8), "k: "),  # 2 heads for 3
    ("branch_attention", 1, random(2, 6, 4, 8), "k: "),
    ("branch_attention", (3, 0), random(3, 1, 2, 8), r"branch_k\[0\]: "),  # the text has 3 heads
    ("branch_attention", 1, random(1, 3, 4, 8), "k: "),  # would broadcast over the batch
    ("branch_attention", 2, random(2, 3, 5, 8), "v: "),
    ("branch_attention", 2, random(2, 3, 4, 8).half(), "v: "),
    ("branch_attention", (3, 1), random(3, 3, 6, 9), r"branch_k\[1\]: "),
    ("branch_attention", (4, 0), random(2, 3, 2, 8), r"branch_v\[0\]: "),
    ("branch_attention", 4, [random(3, 3, 2, 8)], "branch_k, branch_v, branch_rows: "),
    ("branch_attention", (5, 1), torch.tensor([0]), r"branch_rows\[1\]: "),
    ("branch_attention", (5, 1), torch.tensor([0, 1], dtype=torch.int32), r"branch_rows\[1\]: "),
    ("branch_attention", 6, random(2, 1), "weights: "),
    ("branch_attention", 6, random(2, 2).half(), "weights: "),
    ("branch_attention", 7, random(2, 1, 4), "masks: "),
    ("branch_attention", 7, random(1, 2, 5), "masks: "),
    ("branch_attention", 8, 3, "shared_softmax: "),
    ("branch_attention", 8, -1, "shared_softmax: "),
    ("branch_attention", 9, math.nan, "scale: "),
    ("branch_attention", 9, -math.inf, "scale: "),
    ("branch_attention", 9, 1e39, "scale: "),  # no number of float32
    ("attention_column_mean", 0, random(3, 5, 8), "q: "),
    ("attention_column_mean", 1, random(2, 2, 4, 8), "k: "),
    ("attention_column_mean", 2, random(2, 3, 4, 7), "v: "),
    ("attention_column_mean", 2, random(2, 3, 4, 8).bfloat16(), "v: "),
    ("attention_column_mean", 3, [0, 2], "rows: "),
    ("attention_column_mean", 3, [-1], "rows: "),
    ("attention_column_mean", 4, math.nan, "scale: "),
    ("biased_attention", 0, random(3, 5, 8), "q: "),
    ("biased_attention", 1, random(2, 2, 4, 8), "k: "),
    ("biased_attention", 2, random(2, 3, 4, 7), "v: "),
    ("biased_attention", 3, random(1, 4, 2), "query_bias: "),
    ("biased_attention", 3, random(3, 5, 2), "query_bias: "),
    ("biased_attention", 3, random(1, 5, 17), "query_bias: "),
    ("biased_attention", 3, random(1, 5, 2).half(), "query_bias: "),
    ("biased_attention", 3, None, "query_bias, key_bias: "),
    ("biased_attention", 4, random(2, 4, 3), "key_bias: "),
    ("biased_attention", 4, random(2, 1, 4, 2), "key_bias: "),
    ("biased_attention", 5, -math.inf, "scale: "),
    ("pool_tokens", 0, random(2, 11, 5), "x: "),
    ("pool_tokens", 0, torch.ones(2, 12, 5, dtype=torch.int64), "x: "),
    ("pool_tokens", 1, (0, 4), "grid: "),
    ("pool_tokens", 2, (2, -3), "tile: "),
    ("pool_tokens", 3, (2, 0), "offset: "),
    ("pool_tokens", 4, (0, 1), "window: "),
    ("pool_tokens", 5, (2, 2, 2), "stride: "),
    ("pool_tokens", 5, (2,), "stride: "),
    ("pool_tokens", 6, "mean", "mode: "),
    ("pool_tokens", 7, [0.5, math.nan], "blends: "),
    ("tile_attention", 0, random(2, 3, 11, 8), "q: "),
    ("tile_attention", 1, random(2, 3, 12, 8), "k: "),
    ("tile_attention", 2, random(2, 3, 12, 8), "v: "),
    ("tile_attention", 3, (3, 0), "grid: "),
    ("tile_attention", 6, (0, 1), "stride: "),
    ("tile_attention", 7, None, "shared_k, shared_v: "),
    ("tile_attention", 7, random(1, 3, 3, 8), "shared_k: "),
    ("tile_attention", 8, random(2, 3, 3, 8).half(), "shared_v: "),
    ("tile_attention", 9, math.inf, "scale: "),
    ("blur_and_blend", 0, random(3, 6, 7), "x0: "),
    ("blur_and_blend", 0, torch.ones(2, 3, 6, 7, dtype=torch.uint8), "x0: "),
    ("blur_and_blend", 1, random(1, 2, 3), "saliency: "),
    ("blur_and_blend", 1, random(2, 0, 3), "saliency: "),
    ("blur_and_blend", 1, random(2, 2, 3).half(), "saliency: "),
    ("blur_and_blend", 2, -1.0, "sigma: "),
    ("blur_and_blend", 4, 4, "kernel_size: "),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "place", "value", "text"), BAD)
def test_bad_arguments_are_one_error_everywhere(name, place, value, text, backend, device):
    arguments = on(device, changed(CALLS[name](), place, value))
    with pytest.raises(RuntimeError, match=f"^{text}expected .*, got ") as caught:
        operator(name)(*arguments)
    assert BACKENDS[backend](name, arguments) == (RuntimeError, str(caught.value))


NO_TENSORS = [
    (random(2, 2).numpy(), "numpy.ndarray"),
    ([1.0, 2.0], "list"),
    ("q", "str"),
    (None, "None"),
]
TENSORS = [
    ("branch_attention", 0, "q"),
    ("branch_attention", 1, "k"),
    ("branch_attention", (3, 1), "branch_k[1]"),
    ("branch_attention", (5, 0), "branch_rows[0]"),
    ("branch_attention", 6, "weights"),
    ("attention_column_mean", 2, "v"),
    ("biased_attention", 0, "q"),
    ("biased_attention", 2, "v"),
    ("pool_tokens", 0, "x"),
    ("tile_attention", 0, "q"),
    ("blur_and_blend", 0, "x0"),
    ("blur_and_blend", 1, "saliency"),
]
OPTIONAL_TENSORS = [
    ("branch_attention", 7, "masks"),
    ("biased_attention", 3, "query_bias"),
    ("tile_attention", 7, "shared_k"),
]


@pytest.mark.parametrize("backend", [None, "plain", "reference"])
@pytest.mark.parametrize(
    ("place", "value"),
    [*product(TENSORS, NO_TENSORS), *product(OPTIONAL_TENSORS, NO_TENSORS[:-1])],
)
def test_what_is_no_tensor_is_named(place, value, backend, monkeypatch):
    (name, index, text), (other, kind) = place, value
    monkeypatch.setattr(library, "_FORCED", backend)
    arguments = changed(CALLS[name](), index, other)
    with pytest.raises(TypeError) as caught:
        library.call(operator(name), reference(name), *arguments)
    assert str(caught.value) == f"{text}: expected a tensor, got {kind}"


def in_float64(name):
    """The call with its picture or attention inputs in float64, its weights and maps in float32."""
    arguments = CALLS[name]()
    first = {"biased_attention": range(3), "branch_attention": range(5), "blur_and_blend": [0]}
    for place in first.get(name, range(len(arguments))):
        arguments[place] = mapped(arguments[place], torch.Tensor.double)
    return arguments


@pytest.mark.parametrize("name", CALLS)
def test_float64_is_the_references_alone(name):
    """Called by itself the operator says so, on every device."""
    arguments = in_float64(name)
    with pytest.raises(RuntimeError, match=r"expected float32, .*, got float64"):
        operator(name)(*arguments)
    error = outcome(operator(name), arguments)
    for backend in ("meta", "fakes", "symbols"):
        assert BACKENDS[backend](name, arguments) == error
    exact = tensors_of(reference(name)(*arguments))
    assert exact[0].dtype is torch.float64
    assert_same([tensor.float() for tensor in exact], outcome(operator(name), CALLS[name]()))


@pytest.mark.parametrize("name", CALLS)
def test_a_compiled_call_has_the_same_error(name):
    arguments = changed(CALLS[name](), 0, random(2, 2))
    _, text = outcome(operator(name), arguments)
    with pytest.raises(RuntimeError) as caught:
        torch.compile(lambda *a: operator(name)(*a), fullgraph=True, backend="aot_eager")(
            *arguments
        )
    assert text in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["plain", "reference"])
@pytest.mark.parametrize(
    "name", ["attention_column_mean", "biased_attention", "blur_and_blend", "branch_attention"]
)
def test_a_forced_backend_compiles_casts_and_checks_alike(name, backend, monkeypatch):
    function, arguments = public(name), CALLS[name]()
    bad = changed(arguments, 1, random(5, 2))
    error = outcome(operator(name), bad)
    mixed = changed(arguments, 0, arguments[0].half())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = [outcome(function, arguments), outcome(function, mixed)]
    monkeypatch.setattr(library, "_FORCED", backend)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert_same(outcome(compiled, arguments), outcome(operator(name), arguments))
    assert outcome(function, bad) == error
    assert error[1] in outcome(compiled, bad)[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for given, theirs in zip((arguments, mixed), expected, strict=True):
            assert_same(outcome(function, given), theirs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["attention_column_mean", "biased_attention", "branch_attention"])
def test_plain_torch_compiles_for_every_size(name, monkeypatch):
    arguments = CALLS[name]()
    expected = outcome(operator(name), arguments)
    monkeypatch.setattr(library, "_FORCED", "plain")
    compiled = torch.compile(public(name), fullgraph=True, dynamic=True, backend="aot_eager")
    assert_same(outcome(compiled, arguments), expected)


@pytest.mark.slow
def test_a_call_compiled_for_every_size_has_the_same_error():
    """The sizes were good ones when it was compiled."""
    compiled = torch.compile(
        torch.ops.attnpatch.blur_and_blend, fullgraph=True, dynamic=True, backend="aot_eager"
    )
    good = CALLS["blur_and_blend"]()
    torch.testing.assert_close(compiled(*good), operator("blur_and_blend")(*good))
    bad = changed(good, 1, random(5, 2, 3))
    kind, text = outcome(operator("blur_and_blend"), bad)
    with pytest.raises(kind) as caught:
        compiled(*bad)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        (name, place)
        for name, arguments in ((name, call()) for name, call in CALLS.items())
        for place, value in enumerate(arguments)
        if place > 0 and tensors_of(value)
    ],
)
def test_a_tensor_on_another_device_is_named(name, place):
    arguments = CALLS[name]()
    if isinstance(arguments[place], list):
        place = (place, 1)
        elsewhere = changed(arguments, place, arguments[place[0]][place[1]].to("meta"))
    else:
        elsewhere = changed(arguments, place, arguments[place].to("meta"))
    kind, text = outcome(operator(name), elsewhere)
    assert kind is RuntimeError
    assert text.endswith("on another device")
    assert outcome(reference(name), elsewhere) == (kind, text)


def test_fakes_of_two_devices_are_seen():
    with FakeTensorMode():
        x0, saliency = torch.empty(2, 3, 6, 7), torch.empty(2, 2, 3, device="cuda")
        assert outcome(operator("blur_and_blend"), [x0, saliency, 1.0]) == (
            RuntimeError,
            "saliency: expected float32 (2, rows, columns) on the device of x0, "
            "got float32 (2, 2, 3) on another device",
        )


BOUNDS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def assert_same(found, expected):
    """Equal where finite, and finite in the same places."""
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        assert torch.equal(ours.isfinite(), theirs.isfinite())
        kept = [torch.where(t.isfinite(), t, 0) for t in (ours, theirs)]
        bound = BOUNDS[ours.dtype]
        torch.testing.assert_close(*kept, rtol=bound, atol=bound, check_stride=False)


def check_everywhere(name, arguments):
    """All forms give the same; fakes have its shapes and dtypes, or its error."""
    expected = outcome(operator(name), arguments)
    for backend in ("reference", "plain"):
        found = BACKENDS[backend](name, arguments)
        if isinstance(expected, tuple):
            assert found == expected
            assert expected[0] is RuntimeError
        else:
            assert_same(found, expected)
    for backend in ("meta", "fakes", "symbols"):
        result = BACKENDS[backend](name, arguments)
        if isinstance(expected, tuple) and "rows below" not in expected[1]:
            assert result == expected
        elif not isinstance(expected, tuple):
            assert [(t.shape, t.dtype, t.stride()) for t in result] == [
                (t.shape, t.dtype, t.stride()) for t in expected
            ]


LAYOUTS = {
    "dense": lambda t: t,
    "gaps": lambda t: t.repeat_interleave(2, dim=t.dim() - 1)[..., ::2],
    "last axis apart": lambda t: t.transpose(0, -1).contiguous().transpose(0, -1),
    "one memory": lambda t: t[:1].expand_as(t),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CALLS)
def test_every_tensor_may_have_any_strides(name, layout, device):
    arguments = mapped(on(device, CALLS[name]()), LAYOUTS[layout])
    expected = operator(name)(*mapped(arguments, torch.Tensor.contiguous))
    assert_same(tensors_of(operator(name)(*arguments)), tensors_of(expected))
    check_everywhere(name, arguments)


def emptied(name, axis):
    """The call with nothing along an axis of every tensor that has this axis in common."""
    arguments = CALLS[name]()
    first = arguments[0].shape[axis]

    def cut(tensor):
        if tensor.dim() == arguments[0].dim() and tensor.shape[axis] == first:
            return tensor.narrow(axis, 0, 0)
        return tensor

    return mapped(arguments, cut)


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
@pytest.mark.parametrize("name", CALLS)
def test_empty_tensors_have_results_or_errors(name, axis):
    if axis < CALLS[name]()[0].dim():
        check_everywhere(name, emptied(name, axis))


@pytest.mark.slow
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", CALLS)
def test_what_is_not_finite_arrives_alike(name, value):
    """In every tensor in turn, one number."""
    count = len(tensors_of(CALLS[name]()))
    for i in range(count):
        arguments = CALLS[name]()
        tensor = tensors_of(arguments)[i]
        if tensor.is_floating_point():
            tensor.view(-1)[tensor.numel() // 2] = value
            check_everywhere(name, arguments)


KERNELS = ["branch_attention", "tile_attention", "attention_column_mean", "biased_attention"]


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FC00001, 0x7FFFFFFF, -1])
@pytest.mark.parametrize("target", _core.cpu_targets())
@pytest.mark.parametrize("name", KERNELS)
def test_a_nan_stays_one_whatever_its_bits(name, target, bits):
    """One in a query makes its row of the result, and one in a key all rows that it serves."""
    query, key = CALLS[name](), CALLS[name]()
    query[0].view(torch.int32)[1, 2, 3, 4] = bits
    key[1].view(torch.int32)[1, 2, 0, 4] = bits
    try:
        _core.force_cpu_target(target)
        of_query = tensors_of(operator(name)(*query))[0].isnan()
        of_key = tensors_of(operator(name)(*key))[0].isnan()
    finally:
        _core.force_cpu_target("")
    assert of_query[1, 2, 3].all()
    assert of_query.sum() == 8
    assert of_key[1, 2, 0].all()
    assert of_key.flatten(2).any(dim=2).sum() == 1


@st.composite
def damaged_calls(draw, name):
    """A call with one or two of its arguments spoilt, or changed to others that are good."""
    arguments = CALLS[name]()
    for _ in range(draw(st.integers(1, 2))):
        places = [
            place
            for i, value in enumerate(arguments)
            for place in ([(i, j) for j in range(len(value))] if isinstance(value, list) else [i])
        ]
        place = draw(st.sampled_from(places))
        value = arguments[place[0]][place[1]] if isinstance(place, tuple) else arguments[place]
        arguments = changed(arguments, place, draw(damages(value)))
    return arguments


@st.composite
def damages(draw, value):
    if isinstance(value, torch.Tensor):
        return draw(damaged_tensors(value))
    if isinstance(value, tuple):
        return tuple(draw(st.lists(st.integers(-1, 4), min_size=1, max_size=3)))
    if isinstance(value, str):
        return draw(st.sampled_from(["avg", "max", "", "mean"]))
    if isinstance(value, int):
        return draw(st.integers(-2, 5))
    return draw(st.sampled_from([0.0, 0.5, 1.0, 2.0, -1.0]))


@st.composite
def damaged_tensors(draw, tensor):
    axis = draw(st.integers(0, max(tensor.dim() - 1, 0)))
    assume(tensor.dim() > 0)
    size = tensor.shape[axis]
    kind = draw(st.sampled_from(["cut", "longer", "flat", "dtype", "turned", "number", "layout"]))
    if kind == "cut":
        return tensor.narrow(axis, 0, draw(st.integers(0, size)))
    if kind == "longer":
        return torch.cat([tensor, tensor], dim=axis)
    if kind == "flat":
        return tensor.flatten(0, min(1, tensor.dim() - 1))
    if kind == "dtype":
        return tensor.to(draw(st.sampled_from([torch.float16, torch.int64, torch.bool])))
    if kind == "turned":
        return tensor.transpose(0, axis)
    if kind == "layout":
        return LAYOUTS[draw(st.sampled_from(list(LAYOUTS)))](tensor)
    tensor = tensor.clone(memory_format=torch.contiguous_format)
    if tensor.numel() > 0:
        numbers = (
            [0.0, -1.0, math.nan, math.inf] if tensor.is_floating_point() else [-3, 0, 2, 3, 9]
        )
        tensor.view(-1)[draw(st.integers(0, tensor.numel() - 1))] = draw(st.sampled_from(numbers))
    return tensor


@pytest.mark.slow
@settings(max_examples=60)
@given(st.data())
@pytest.mark.parametrize("name", CALLS)
def test_a_damaged_call_is_the_same_everywhere(name, data):
    check_everywhere(name, data.draw(damaged_calls(name)))


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


FORMS = {
    "kernel": operator,
    "reference": reference,
    "plain": lambda name: library.forms_of(name).plain,
}

JUNK = [math.nan, math.inf, -math.inf, 1e30]


@st.composite
def branches_partly_off(draw):
    """A call, and the same with junk in all that is off."""
    shared_softmax, masked = draw(st.integers(0, 2)), draw(st.booleans())
    by = st.sampled_from(["row", "weight", "mask"] if masked else ["row", "weight"])
    clean, spoilt = [changed(CALLS["branch_attention"](), 8, shared_softmax) for _ in range(2)]
    for arguments in (clean, spoilt):
        arguments[5] = [torch.tensor([0, 1]), torch.tensor([1, 0])]
        arguments[6] = torch.tensor([[0.5, 2.0], [1.0, 0.7]])
        arguments[7] = random(2, 2, 5, seed=3).abs() + 0.1 if masked else None
    for branch in range(2):
        for b in range(2):
            why, junk = draw(st.none() | by), draw(st.lists(st.sampled_from(JUNK), min_size=3))
            queries = draw(st.lists(st.booleans(), min_size=5, max_size=5))
            for arguments in (clean, spoilt):
                if why == "row":
                    arguments[5][branch][b] = -1
                elif why == "weight":
                    arguments[6][branch, b] = 0.0
                elif why == "mask":
                    arguments[7][branch, b, torch.tensor(queries)] = 0.0
            key_row = clean[5][branch][b]
            if why == "row":
                spoilt[6][branch, b] = junk[0]
            elif why == "weight" or (why == "mask" and all(queries)):
                spoilt[3][branch][key_row, :, -1] = junk[0]
                spoilt[4][branch][key_row, :, 0] = junk[1]
            if masked and why in ("row", "weight"):
                spoilt[7][branch, b] = junk[2]
    return clean, spoilt


@settings(max_examples=150)
@given(branches_partly_off())
@pytest.mark.parametrize("form", FORMS)
def test_nothing_of_a_branch_that_is_off_arrives(form, calls):
    """By its row, its weight or its mask; whatever stands in the others, and in keys and values."""
    clean, spoilt = (FORMS[form]("branch_attention")(*arguments) for arguments in calls)
    assert clean.isfinite().all()
    torch.testing.assert_close(spoilt, clean, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("by", ["weight", "mask"])
@pytest.mark.parametrize("form", FORMS)
def test_a_share_below_zero_gives_its_queries_no_number(form, by):
    arguments = changed(CALLS["branch_attention"](), (5, 1), torch.tensor([1, 1]))
    arguments[6], arguments[7] = torch.ones(2, 2), torch.ones(2, 2, 5)
    below = torch.zeros(2, 5, dtype=torch.bool)
    if by == "weight":
        arguments[6][:, 1] = -0.5
        arguments[7][0, 1, 3:] = 0.0
        below[1, :3] = True
    else:
        arguments[7][:, 0, 2] = -1e-3
        below[0, 2] = True
    for shared_softmax in (
        0,
        1,
    ):  # the other branch is subtracted, as it is with a softmax of its own
        found = FORMS[form]("branch_attention")(*changed(arguments, 8, shared_softmax))
        none = below if shared_softmax else torch.zeros_like(below)
        assert torch.equal(found.isnan(), none[:, None, :, None].expand_as(found))


def test_a_row_that_is_not_there_makes_its_row_of_the_result_not_a_number():
    """What devices do where nobody may wait to look at the rows."""
    arguments = changed(CALLS["branch_attention"](), (5, 0), torch.tensor([3, 0]))
    formula = ops.branch_attention_reference.__wrapped__
    found = formula(*arguments)
    assert found[0].isnan().all()
    assert torch.equal(found[1], formula(*CALLS["branch_attention"]())[1])


def test_a_branch_without_rows_serves_none():
    empty = [torch.zeros(0, 3, 2, 8), random(3, 3, 6, 8)]
    arguments = changed(changed(CALLS["branch_attention"](), 3, empty), 4, empty)
    arguments = changed(arguments, (5, 0), torch.tensor([-1, -1]))
    check_everywhere("branch_attention", arguments)
