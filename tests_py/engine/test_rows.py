# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Which of a patch's pictures serves each row of a batch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnpatch.engine import Call
from attnpatch.engine.rows import key_rows, sample_rows


def call(chunks, batch, samples=None, **more):
    return Call(latent=(8, 8), batch=batch, chunks=chunks, samples=samples, **more)


KEYS = [
    # chunks, batch, samples, pictures, negatives, rows, why
    ((0,), 1, None, 1, 1, [0], "cond alone"),
    ((1,), 1, None, 1, 1, [1], "uncond alone"),
    ((1, 0), 2, None, 1, 1, [1, 0], "the order of diffusers"),
    ((0, 1), 2, None, 1, 1, [0, 1], "the other order"),
    ((0, 1, 2), 3, None, 1, 1, [0, 1, 1], "a third role is uncond"),
    ((1, 1, 0, 0), 4, None, 1, 1, [1, 1, 0, 0], "two conds and two unconds"),
    ((1, 0), 6, None, 1, 1, [1, 1, 1, 0, 0, 0], "a batch of one picture"),
    ((1, 0), 6, None, 3, 1, [3, 3, 3, 0, 1, 2], "one picture each, one negative"),
    ((0, 1), 6, None, 3, 3, [0, 1, 2, 3, 4, 5], "one negative each"),
    ((1, 0), 4, (2, 0), 3, 3, [5, 3, 2, 0], "a window of pictures"),
    ((0,), 4, (0, 0, 1, 1), 2, 1, [0, 0, 1, 1], "two of each picture"),
    ((1, 0), 2, None, 1, 0, [-1, 0], "no negative: uncond gets nothing"),
    ((1, 0, 1, 0), 4, (0, 0, 1, 1), 2, 2, [2, 0, 3, 1], "row by row, tile by tile"),
]


@pytest.mark.parametrize(
    ("chunks", "batch", "samples", "pictures", "negatives", "rows", "why"), KEYS
)
def test_rows_of_keys(chunks, batch, samples, pictures, negatives, rows, why):
    assert key_rows(call(chunks, batch, samples), {}, pictures, negatives) == rows, why


def test_roles_may_be_declared():
    four = call((0, 1, 2, 3), 4)
    assert key_rows(four, {2: "cond", 3: "off"}, 1, 1) == [0, 1, 0, -1]
    assert key_rows(four, {1: "off", 0: "uncond"}, 1, 1) == [1, -1, 1, 1]


def test_pictures_follow_slots_where_no_samples_are_told():
    tiles = call((1, 0, 1, 0), 4, slots=(0, 0, 1, 1))
    assert sample_rows(tiles, 2, "mask") == [0, 0, 1, 1]
    assert sample_rows(call((1, 0), 4), 2, "mask") == [0, 1, 0, 1]
    assert sample_rows(call((1, 0), 4, (7, 3)), 8, "mask") == [7, 3, 7, 3]
    assert sample_rows(call((1, 0), 4, (7, 3)), 1, "mask") == [0, 0, 0, 0]
    assert sample_rows(call((0,), 4), 2, "mask", repeat_last=True) == [0, 1, 1, 1]


@pytest.mark.parametrize(
    ("chunks", "batch", "samples", "count", "message"),
    [
        (
            (1, 0),
            4,
            None,
            3,
            "mask: expected 1 picture, or 2: one for each image that is made, got 3 for 2 cond and "
            "2 uncond rows",
        ),
        # Two pictures for a batch of one are not one for cond and one for uncond.
        ((1, 0), 2, None, 2, "expected 1 picture, got 2 for 1 cond and 1 uncond rows"),
        ((0,), 2, (0, 5), 3, "1 picture, or more than 5, the last picture that a row shows, got 3"),
        ((1, 0, 1, 0), 4, None, 3, "expected 1 picture, got 3 for 2 cond and 2 uncond rows"),
        ((2, 0), 2, None, 4, "got 4 for 1 cond and 1 role 2 rows"),
    ],
)
def test_pictures_that_do_not_fit(chunks, batch, samples, count, message):
    with pytest.raises(ValueError, match=message):
        sample_rows(call(chunks, batch, samples), count, "mask")


@given(st.data())
def test_rows_do_not_depend_on_each_other(data):
    """Any order of rows of any roles and samples: each gets what it would get alone."""
    pictures = data.draw(st.integers(1, 4))
    negatives = data.draw(st.sampled_from([0, 1, pictures]))
    rows = data.draw(
        st.lists(st.tuples(st.integers(0, 2), st.integers(0, pictures - 1)), min_size=1, max_size=8)
    )
    roles, samples = zip(*rows, strict=True)
    together = key_rows(call(roles, len(rows), samples), {}, pictures, negatives)
    alone = [key_rows(call((k,), 1, (s,)), {}, pictures, negatives)[0] for k, s in rows]
    assert together == alone
