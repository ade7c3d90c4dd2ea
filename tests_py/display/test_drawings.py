# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Curves and bars go through the values that they stand for."""

import math

import pytest
import torch

import attnpatch as ap
from attnpatch.display.strength import Strength, strength_of
from attnpatch.display.svg import bars, curve
from html_page import Page


def points(drawing):
    (line,) = Page(drawing).all("polyline")
    return [tuple(map(float, point.split(","))) for point in line["points"].split()]


def test_a_curve_bends_where_the_weight_does():
    weight = ap.Weight(2.0, curve=[(0.25, 1.0), (0.75, -0.5)])
    guidance = ap.SelfAttentionGuidance(weight, start=0.1, end=0.9)
    strength = strength_of(guidance)
    found = points(curve(strength, "red"))
    wanted = [(0.1, 2.0), (0.25, 2.0), (0.75, -1.0), (0.9, -1.0)]
    left, right = found[0][0], found[-1][0]
    top, bottom = found[0][1], found[-1][1]
    assert len(found) == len(wanted)
    for (x, y), (progress, value) in zip(found, wanted, strict=True):
        assert x == pytest.approx(left + (progress - 0.1) / 0.8 * (right - left), abs=0.2)
        assert y == pytest.approx(bottom + (value + 1) / 3 * (top - bottom), abs=0.2)
    page = Page(curve(strength, "red"))
    assert page.all("svg")[0]["aria-label"] == "scale 2 at 10% to -1 at 90%"


@pytest.mark.parametrize(
    ("patch", "name", "wanted"),
    [
        (ap.PerturbedAttentionGuidance(3.0), "scale", 3.0),
        (ap.KeyGain(ap.ReferenceKeys(0), 1.5, weight=0.5), "weight", 0.5),
        (ap.NormalizedAttentionGuidance(torch.ones(2, 4), 4.0), "scale", 4.0),
        (ap.HyperTile(), "reduction", 1.0),
        (ap.SlothfulAttention(time_decay=0), "reduction", 1.0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_strength_of_each_kind(patch, name, wanted):
    strength = strength_of(patch)
    assert strength.name == name
    assert [strength.at(p) for p in (0.0, 0.5, 1.0)] == [wanted] * 3


def test_reductions_are_strongest_at_their_peak():
    strength = strength_of(ap.SlothfulAttention(peak_time=0.3, time_decay=1.5))
    for progress in (0.0, 0.3, 0.9):
        time = 1 - 0.999 * (1 - progress)
        assert strength.at(progress) == pytest.approx(math.exp(-(((time - 0.3) * 1.5) ** 2)))


def test_no_time_and_no_strength_are_drawn_too():
    empty = Page(curve(Strength("weight", lambda _: 1.0, 0.5, 0.5), "red"))
    assert not empty.all("polyline")
    flat = points(curve(Strength("weight", lambda _: 0.0), "red"))
    assert len({y for _, y in flat}) == 1


def test_bars_are_as_high_as_their_values():
    page = Page(bars([1.0, None, -0.5, 0.0], "red", "text"))
    heights = [float(bar["height"]) for bar in page.all("rect")]
    assert len(heights) == 3
    assert heights[0] == pytest.approx(2 * heights[1], abs=0.2)
    assert Page(bars([], "red", "none")).all("svg")
