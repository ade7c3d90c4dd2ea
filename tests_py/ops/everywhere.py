# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""An operator in all its forms, and what they owe each other."""

import torch
from calls import mapped, operator, outcome, reference
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

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
