# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Branches that are off for a query: nothing of them arrives, whatever stands in them."""

import math

import pytest
import torch
from calls import CALLS, changed, operator, random, reference
from everywhere import check_everywhere
from hypothesis import given, settings
from hypothesis import strategies as st

from attnpatch import ops
from attnpatch.ops import library

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
