# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Which cells share a batch, and the plan of a sweep: nothing lost, nothing twice."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

import attnpatch as ap
from attnpatch.engine import SamplingPoint
from attnpatch.studies.batches import group_cells
from attnpatch.studies.plan import make_plan, with_unpatched
from attnpatch.studies.shared_steps import SharedSteps

FASHION = "attnpatch/fashion"
STYLE = {"kind": "ImagePrompt", "adapter": FASHION, "picture": f"{FASHION}:3"}
SAG = {"kind": "SelfAttentionGuidance"}
TOKENS = {"kind": "TokenMerging"}
ALL = {"style": STYLE, "sag": SAG, "tokens": TOKENS}


@pytest.mark.parametrize(
    ("axes", "groups"),
    [
        ({"style.weight": [0.1, 0.2], "seed": [0, 1], "prompt": ["", "bag"]}, 1),
        ({"style.window": [[0, 0.5], [0.5, 1]], "style.curve": [[], [[0, 1]]]}, 1),
        ({"style.picture": [f"{FASHION}:1", f"{FASHION}:2"], "style.on": [True, False]}, 1),
        ({"style.mask": [None, [0, 0, 0.5, 1]], "style.preset": ["linear", "ease in"]}, 1),
        ({"sag.scale": [0.1, 0.2]}, 1),
        ({"sag.window": [[0, 0.5], [0.5, 1]]}, 2),  # each asks for a pass of its own
        ({"tokens.ratio": [0.3, 0.5]}, 2),  # all rows of a call are reduced alike
        ({"steps": [4, 5], "guidance": [1, 2]}, 4),
        ({"negative_prompt": [None, "", "bag"]}, 2),
        ({"style.compat": [None, "fooocus"], "style.shared_softmax": [True]}, 2),
    ],
)
def test_groups(axes, groups):
    study = ap.Study(FASHION, ALL, axes)
    found = group_cells(study.cells())
    assert len(found) == groups
    assert Counter(c.id for group in found for c in group) == Counter(c.id for c in study.cells())


@given(st.integers(1, 40), st.sets(st.integers(0, 30)), st.booleans())
def test_a_plan_has_each_cell_once(size, already, varied):
    axes = {"style.weight": [0.1, 0.2, 0.3, 0.4, 0.5], "seed": [0, 1, 2], "steps": [3, 4]}
    cells = with_unpatched(ap.Study(FASHION, {"style": STYLE}, axes).cells())
    assert len(cells) == 30 + 6
    done = {cells[place].id for place in already} if varied else set()
    plan = make_plan(cells, done, size)
    units = [*plan.first, *plan.then]
    assert max(map(len, units)) <= size
    assert Counter(c.id for unit in units for c in unit) == Counter(
        c.id for c in cells if c.id not in done
    )
    # An unpatched picture is made before its cells, or along with them.
    first = {c.id for unit in plan.first for c in unit} | done
    for unit in plan.then:
        own = {c.id for c in unit}
        assert all(c.without_patches.id in own | first for c in unit)


def points(count=10):
    return [SamplingPoint(step / count, 1.0, 1.0) for step in range(count)]


def test_rows_are_equal_until_their_patches_differ(prompt):
    base = prompt(0.5)
    stacks = [
        [],
        [base.replace(start=0.3)],
        [base.replace(start=0.3, end=0.6)],
        [base.replace(start=0.3, weight=0.7)],
        [base.replace(weight=0.0)],
    ]
    shared = SharedSteps([0] * 5, stacks)
    found = [shared(point, (4, 4)) for point in points()]
    assert found[0] == found[2] == [0, 0, 0, 0, 0]
    assert found[3] == found[6] == [0, 1, 1, 3, 0]
    assert found[7] == found[9] == [0, 1, 2, 3, 0]  # 0.6 was the last of the third one's window
    assert shared.rows == 50 and shared.computed == 3 * 1 + 4 * 3 + 3 * 4


def test_rows_that_differed_stay_apart(prompt):
    base = prompt(0.5)
    shared = SharedSteps([0, 0], [[base.replace(end=0.1)], []])
    assert [shared(point, (4, 4)) for point in points()] == [[0, 1]] * 10


def test_rows_of_other_seeds_are_never_equal(prompt):
    shared = SharedSteps(["a", "b", "a"], [[prompt(0.5)]] * 3)
    assert shared(points()[0], (4, 4)) == [0, 1, 0]


def test_curves_masks_and_pictures_count(prompt):
    base = prompt(1.0)
    curve = base.replace(weight=ap.Weight(1.0, curve=[(0.2, 1.0), (0.6, 0.0)]))
    left, right = base.replace(mask=[[1.0, 0.0]]), base.replace(mask=[[0.0, 1.0]])
    other = prompt(1.0, seed=1)
    rows = [base, curve, left, right, other, base]
    shared = SharedSteps([0] * 6, [[row] for row in rows])
    assert shared(points()[0], (4, 4)) == [0, 0, 2, 3, 4, 0]
    assert shared(points()[5], (4, 4)) == [0, 1, 2, 3, 4, 0]
