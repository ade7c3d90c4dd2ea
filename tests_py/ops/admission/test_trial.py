# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Trials of kernels find those that are wrong, read what is not theirs, or change their mind."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnpatch.ops.admission import OPERATORS, class_of
from attnpatch.ops.admission.child import trial_of, verdict_on
from attnpatch.ops.admission.problems import Problem, problems
from attnpatch.ops.admission.timing import measure, ratio
from attnpatch.ops.admission.trial import Trial, WrongError, guarded

CPU = torch.device("cpu")


def double(x):
    return 2 * x


def trial(kernel, plain=double):
    return Trial(kernel, plain, double, CPU)


def problem(real=False):
    return Problem([torch.randn(3, 8, generator=torch.Generator().manual_seed(0))], real)


def test_a_right_kernel_passes():
    assert trial(double).errors(problem()) == (0.0, 0.0)


def beyond(x):
    """Reads the value after the last of its input."""
    return 2 * x + 0 * x.as_strided((), (), x.storage_offset() + x.numel())


def before(x):
    return 2 * x + 0 * x.as_strided((), (), x.storage_offset() - 1)


class Moody:
    calls = 0

    def __call__(self, x):
        self.calls += 1
        return 2 * x + 1e-7 * self.calls


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (lambda x: 2.1 * x, "error .* expected at most 1e-05"),
        (lambda x: 2 * x + math.nan, "error inf"),
        (beyond, "error inf"),
        (before, "error inf"),
        (Moody(), "a second call gives another result"),
    ],
)
def test_a_wrong_kernel_does_not(kernel, message, real):
    with pytest.raises(WrongError, match=message):
        trial(kernel).errors(problem(real))


def test_an_error_as_large_as_torchs_passes():
    kernel, plain = (lambda x: 2 * x + 0.015), (lambda x: 2 * x + 0.01)
    ours, theirs = trial(kernel, plain).errors(problem())
    assert ours == pytest.approx(0.015, rel=1e-3)
    assert theirs == pytest.approx(0.01, rel=1e-3)


def fails(x):
    raise RuntimeError("an illegal memory access")


@pytest.mark.parametrize(
    ("kernel", "state", "reason"),
    [
        (double, "right", ""),
        (lambda x: 3 * x, "wrong", "error"),
        (fails, "failed", "RuntimeError: an illegal memory access"),
    ],
)
def test_verdicts(kernel, state, reason):
    found = verdict_on(("o", "d", "c"), trial(kernel), [problem(), problem(True)], 2, 1e-4)
    assert found.state == state
    assert reason in found.reason
    assert (found.median > 0) == (state == "right")


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 3), st.integers(1, 3))
def test_guards_surround_values_as_they_lie(shape, swap, step):
    tensor = torch.arange(float(math.prod(shape) * step)).view(*shape[:-1], -1)[..., ::step]
    tensor = tensor.transpose(0, swap % tensor.dim())
    found = guarded(tensor, CPU)
    assert torch.equal(found, tensor)
    assert found.stride() == tensor.stride()
    whole = found.as_strided((found.untyped_storage().nbytes() // 4,), (1,), 0)
    assert whole.isnan().sum() == len(whole) - tensor.numel()
    assert whole[:256].isnan().all()
    assert whole[-256:].isnan().all()


@pytest.mark.slow
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_our_kernels_for_the_cpu_are_right_on_every_small_problem(operator, dtype):
    ours = trial_of(operator, CPU)
    classes = set()
    with torch.no_grad():
        for each in problems(operator, dtype):
            classes.add(class_of(operator, each.arguments))
            if not each.real:
                ours.errors(each)
    assert len(classes) >= 2


def test_measuring_alternates_and_counts():
    order = []
    calls = [[lambda: order.append("a")], [lambda: order.append("b")]]
    times = measure(CPU, calls, 3, 0.0)  # no time: one call a turn, however quick it is
    assert [len(found) for found in times] == [3, 3]
    assert order[-6:] == ["a", "b"] * 3
    assert all(value > 0 for found in times for value in found)


def test_ratios():
    assert ratio([2.0, 4.0, 6.0], [1.0, 1.0, 1.0]) == (4.0, 3.0)
    assert ratio([3.0], [2.0]) == (1.5, 1.5)
    assert ratio([1.0, 2.0], [1.0, 1.0]) == (1.5, 1.25)
