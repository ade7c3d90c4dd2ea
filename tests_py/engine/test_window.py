# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Windows and curves: only those that can act in sampling, each end by its name."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnpatch.engine import Weight
from attnpatch.engine.window import check_window
from attnpatch.patches import (
    PerturbedAttentionGuidance,
    SelfAttentionGuidance,
    SmoothedEnergyGuidance,
)

PROGRESS = st.floats(0, 1)
GUIDANCES = (SelfAttentionGuidance, PerturbedAttentionGuidance, SmoothedEnergyGuidance)


@pytest.fixture(params=["image prompt", *(kind.__name__ for kind in GUIDANCES)])
def make(request, prompt):
    """Return what makes one of the patches that have a window."""
    kinds = {kind.__name__: kind for kind in GUIDANCES}
    return kinds.get(request.param, prompt)


@given(start=PROGRESS, end=PROGRESS)
def test_any_two_ends_are_a_window_or_an_error(start, end):
    if start <= end:
        assert check_window(start, end) == (start, end)
    else:
        with pytest.raises(ValueError, match=r"start: expected at most the end"):
            check_window(start, end)


@pytest.mark.parametrize("window", [(0, 1), (0.0, 0.0), (1, 1), (0.3, 0.3), (np.float32(0.5), 1)])
def test_what_hosts_offer(make, window):
    patch = make(start=window[0], end=window[1])
    assert (patch.start, patch.end) == window
    assert {type(patch.start), type(patch.end)} == {float}


@pytest.mark.parametrize("name", ["start", "end"])
@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (2.0, ValueError, "0 to 1, got 2.0"),
        (30, ValueError, "0 to 1, got 30.0"),
        (-1.0, ValueError, "0 to 1, got -1.0"),
        (math.nan, ValueError, "finite number, got nan"),
        (math.inf, ValueError, "finite number, got inf"),
        (None, TypeError, "number, got None"),
        ("0.5", TypeError, "number, got '0.5'"),
    ],
)
def test_ends_that_are_none(make, name, value, error, message):
    with pytest.raises(error, match=f"^{name}: expected .*{message}"):
        make(**{name: value})


def test_start_after_end(make):
    with pytest.raises(ValueError, match=r"^start: expected at most the end, 0\.2, got 0\.8"):
        make(start=0.8, end=0.2)


def test_replace_checks_it_again(prompt):
    with pytest.raises(ValueError, match="start"):
        prompt(end=0.4).replace(start=0.5)


@pytest.mark.parametrize("progress", [-0.1, 1.01, 50])
def test_points_of_a_curve_lie_in_sampling(progress):
    points = sorted([(0.5, 1.0), (progress, 0.0)])
    with pytest.raises(ValueError, match="curve: expected a progress of 0 to 1"):
        Weight(curve=points)


def test_a_tensor_of_one_number_is_a_number(make):
    assert make(end=torch.tensor(0.25)).end == 0.25
