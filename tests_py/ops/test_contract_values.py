# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Results that are defined: any strides, empty tensors, infinities and NaNs, spoilt calls."""

import math

import pytest
import torch
from calls import CALLS, changed, mapped, operator, tensors_of
from everywhere import assert_same, check_everywhere
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from moving import on

from attnpatch import _core

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
