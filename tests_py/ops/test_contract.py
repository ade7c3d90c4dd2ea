# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What every operator owes on every device: the same checks, and the same errors."""

import math
from itertools import product

import pytest
import torch
from calls import CALLS, changed, mapped, operator, outcome, public, random, reference, tensors_of
from everywhere import BACKENDS, assert_same
from moving import on
from torch._subclasses.fake_tensor import FakeTensorMode

from attnpatch.ops import library

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
