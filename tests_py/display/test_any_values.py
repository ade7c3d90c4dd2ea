# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever values hold, displays are whole pages: finite drawings, bounded, nothing foreign."""

import math
import re
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import attnpatch as ap
from attnpatch.display import AttentionOver, FacesIn, SideBySide
from attnpatch.display.strength import Strength
from attnpatch.display.svg import bars, curve
from attnpatch.engine import Patch, layer_table
from attnpatch.faces import Face
from html_page import Page

LONGEST = 600_000  # characters: what a notebook stores for a value
ANY = st.floats(width=32) | st.sampled_from([math.nan, math.inf, -math.inf, 3e38, -3e38, 1e-45, 0])
FINITE = st.floats(allow_nan=False, allow_infinity=False)
SINGLE = st.floats(width=32, allow_nan=False, allow_infinity=False)
TEXT = st.text(max_size=40) | st.sampled_from(
    [
        "\x00\x1b[31m",
        "\ud800",
        "</style><script>alert(1)</script>",
        "<!--",
        "]]>",
        "\"'&",
        "a" * 9999,
    ]
)
SIDES = st.integers(1, 40)
NUMBERS = {
    *("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "width", "height", "viewBox", "points"),
    *("stroke-width", "stroke_width"),
}


def check(value):
    """Closed in order, as XML too, with finite numbers, of bounded size; gives its text."""
    html = str(value) if isinstance(value, str) else value._repr_html_()
    assert len(html) < LONGEST
    html.encode("utf-8")
    page = Page(html)
    assert not page.all("script")
    strict = re.sub(r"<(br|hr|img)([^>]*)>", r"<\1\2/>", html)
    for element in ElementTree.fromstring(strict).iter():
        for name in NUMBERS & element.attrib.keys():
            for number in re.split("[ ,]+", element.attrib[name]):
                assert math.isfinite(float(number)), (element.tag, name, element.attrib[name])
        for name in ("width", "height", "r"):
            assert float(element.attrib.get(name, 0)) >= 0, (element.tag, element.attrib)
    return page.text


@settings(deadline=None)
@given(st.lists(ANY | FINITE | st.none(), max_size=200))
@example([1e308, -1e308])
@example([1.0] * 5000)
def test_bars(values):
    check(bars(values, "red", "text"))


@settings(deadline=None)
@given(st.lists(ANY | FINITE, min_size=2, max_size=9), st.booleans())
@example([1e308, -1e308], False)
def test_curves(values, smooth):
    places = tuple(i / (len(values) - 1) for i in range(len(values)))
    at = dict(zip(places, values, strict=True))
    check(curve(Strength("w", lambda p: at.get(p, values[0]), points=places, smooth=smooth), "red"))


@settings(deadline=None)
@given(
    FINITE,
    st.lists(st.tuples(st.floats(0, 1), FINITE), max_size=5),
    st.lists(FINITE, max_size=3),
)
@example(1e308, [(0.0, 1e308), (1.0, -1e308)], [])
@example(1.0, [(i / 9999, i) for i in range(10_000)], [])
@example(1.0, [], [1.0] * 10_000)
def test_weights(scale, points, samples):
    curve = sorted({progress: factor for progress, factor in points}.items())
    check(ap.PatchStack(ap.SelfAttentionGuidance(ap.Weight(scale, curve=curve, samples=samples))))


def prompt(**options):
    rows = [
        tuple(torch.zeros(1, 1, channels) for _ in "kv") for channels in layer_table("sd1").channels
    ]
    return ap.ImagePrompt.from_keys_values(rows, **options)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(SINGLE, min_size=1, max_size=9),
    SIDES,
    TEXT,
    st.lists(FINITE, min_size=16, max_size=16),
)
def test_prompts_with_any_mask_layers_and_source(levels, side, source, layers):
    mask = torch.tensor((levels * side)[: side * len(levels)]).reshape(len(levels), side)
    check(prompt(mask=mask, weight=ap.Weight(1.0, layers), source=source))


@settings(deadline=None)
@given(
    st.lists(ANY, min_size=14, max_size=14),
    ANY,
    st.tuples(SIDES, SIDES),
    st.none() | st.lists(ANY, min_size=1, max_size=4),
)
@example([5, 5, 5, 5] + [5, 5] * 5, 0.5, (3, 3), None)
@example([9, 9, 1, 1] + [0, 0] * 5, 0.5, (3, 3), None)
def test_faces(numbers, score, size, embedding):
    face = Face(numbers[:4], score, np.reshape(numbers[4:], (5, 2)), embedding)
    check(face)
    check(FacesIn(np.zeros((*size, 3), np.uint8), [face]))


def test_many_faces():
    face = Face([2, 3, 22, 27], 0.75, [[7, 10], [17, 10], [12, 15], [8, 21], [16, 21]])
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    assert "and 988 more" in check(FacesIn(noise, [face] * 1000))


@settings(deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.lists(ANY, min_size=1, max_size=9)
)
@example(1, 5000, 3, [1.0])
@example(9, 5000, 1, [math.nan])
def test_embeds(pictures, tokens, width, numbers):
    count = pictures * tokens * width
    values = torch.tensor((numbers * count)[:count]).float().reshape(pictures, tokens, width)
    check(ap.ImageEmbeds(values, values[:1], {}))


@settings(deadline=None)
@given(st.dictionaries(TEXT, TEXT, max_size=6))
@example({f"{place}": "b" * 50 for place in range(10_000)})
def test_metadata_of_embeds(metadata):
    tokens = torch.ones(1, 2, 3)
    check(ap.ImageEmbeds(tokens, tokens, metadata))


@settings(max_examples=20, deadline=None)
@given(st.lists(ANY, min_size=1, max_size=9), SIDES, ANY, st.sampled_from(["float32", "float16"]))
def test_attention(levels, side, threshold, dtype):
    maps = torch.tensor((levels * side)[: side * len(levels)]).reshape(1, len(levels), side)
    check(AttentionOver(maps.to(getattr(torch, dtype)).requires_grad_(), threshold=threshold))


def test_many_maps_and_what_is_no_map():
    assert "and 492 more" in check(AttentionOver(torch.rand(500, 4, 4)))
    for wrong in (torch.ones(3), torch.ones(1, 2, 3, 4), torch.ones(0, 2, 2), torch.ones(1, 0, 2)):
        with pytest.raises(ValueError, match=r"attention: expected \(pictures, h, w\), got"):
            AttentionOver(wrong)._repr_html_()


@settings(deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=3), TEXT, st.tuples(SIDES, SIDES), st.integers(1, 9))
def test_pictures(captions, title, size, height):
    pictures = [np.zeros((*size, 3), np.uint8)] * len(captions)
    check(SideBySide(pictures, captions, height, title))


def test_large_and_many_pictures():
    noise = np.random.default_rng(0).integers(0, 256, (60, 900, 3), dtype=np.uint8)
    check(SideBySide([noise], height=2000))
    assert "and 936 more" in check(SideBySide([noise[:8, :8]] * 1000, height=8))
    for wrong, said in ((0, "at least 1"), ("9", "a whole number"), (2.5, "a whole number")):
        with pytest.raises(
            (TypeError, ValueError), match=f"height: expected {said}, got {wrong!r}"
        ):
            SideBySide([noise], height=wrong)


ODD_MASK = torch.tensor([[[math.nan, 3e38], [-math.inf, 0.5]]])


@dataclass(frozen=True, eq=False)
class Odd(Patch):
    """A patch of another maker, whose fields are anything."""

    value: object = None
    start: object = 0.0
    end: object = 1.0
    mask: object = None
    type_name = "odd patch of test_any_values"

    def bind(self, table, index=0):
        raise NotImplementedError

    def state(self):
        return {}, {}

    @classmethod
    def from_state(cls, values, tensors):
        return cls()


@settings(deadline=None)
@given(
    st.recursive(
        ANY
        | TEXT
        | st.none()
        | st.sampled_from([np.ones(3), torch.ones(2), ODD_MASK])
        | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
        max_leaves=5,
    ),
    ANY | st.none() | TEXT,
)
def test_patches_of_other_makers(value, moment):
    check(Odd(value, moment, moment, value))
    check(ap.PatchStack([Odd(value, moment)]))


def test_many_patches_and_long_texts():
    assert "and 976 more" in check(ap.PatchStack([ap.HyperTile()] * 1000))
    check(Odd("<b>" * 100_000))
    report = ap.PatchStack(ap.HyperTile()).bind("sd1").report()
    check(type(report)(**{**vars(report), "unpatched": ("n" * 200,) * 5000}))


def test_layers_of_a_report_are_told_once_each():
    stack = ap.PatchStack([ap.PerturbedAttentionGuidance(3.0, blocks="m0")] * 30)
    check(stack.bind("sdxl").report())
