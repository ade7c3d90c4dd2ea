# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Which samples, and which part of the latent, a host's window shows."""

import logging
from types import SimpleNamespace

import pytest

from attnpatch.hosts.comfyui.windows import shown_part, shown_samples
from attnpatch.patches import Area


def window(indices, dim=0, anchor=None):
    told = SimpleNamespace(index_list=list(indices), dim=dim, causal_anchor_index=anchor)
    return {"context_window": told}


@pytest.mark.parametrize(
    ("options", "rows", "retained", "expected"),
    [
        ({}, 3, (), None),
        ({"ad_params": {"sub_idxs": [2, 0]}}, 2, (), (2, 0)),
        ({"ad_params": {"sub_idxs": None}}, 2, (), None),
        (window([4, 5, 6]), 3, (), (4, 5, 6)),
        (window([4, 5, 6], anchor=3), 4, (), (3, 4, 5, 6)),
        (window([0, 1, 2], anchor=-1), 3, (), (0, 1, 2)),
        (window([4, 5, 6]), 3, [0], (0, 5, 6)),
        (window([4, 5, 6]), 5, (), None),  # of a call that is over
        (window([4, 5, 6], dim=2), 3, (), None),
    ],
)
def test_samples(options, rows, retained, expected):
    assert shown_samples(options, rows, retained) == expected


@pytest.mark.parametrize(
    ("options", "shape", "expected"),
    [
        ({}, (1, 4, 9, 7), None),
        (window([3, 4, 5]), (3, 4, 9, 7), None),
        (window([3, 4, 5], dim=2), (1, 4, 3, 7), Area(3, 0, 3, 7)),
        (window([3, 4, 5], dim=3), (1, 4, 9, 3), Area(0, 3, 9, 3)),
        (window([5, 6, 0], dim=3), (1, 4, 9, 3), Area(0, 5, 9, 3)),
        (window([3, 4, 5], dim=2, anchor=2), (1, 4, 4, 7), Area(2, 0, 4, 7)),
        (window([7, 8, 0], dim=2), (1, 4, 3, 7), Area(7, 0, 3, 7)),
        (window([3, 4, 5], dim=3), (1, 16, 1, 3, 7), Area(3, 0, 3, 7)),
        (window([0], dim=2), (1, 16, 1, 3, 7), None),  # frames
        (window([3, 4, 5], dim=2), (1, 4, 9, 7), None),  # of a call that is over
    ],
)
def test_part(options, shape, expected):
    assert shown_part(options, shape, (9, 7)) == expected


def test_lines_that_do_not_follow_each_other(caplog):
    with caplog.at_level(logging.WARNING, "attnpatch"):
        assert shown_part(window([1, 3, 5], dim=2), (1, 4, 3, 7), (9, 7)) is None
    assert "rows of a latent that do not follow each other" in caplog.text
