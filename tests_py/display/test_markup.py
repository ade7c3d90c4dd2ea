# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Text stays text, and pixels arrive as they are."""

import base64
import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from attnpatch.display.markup import Markup, join, tag
from attnpatch.display.png import data_uri, shrink
from html_page import Page

# A parser of HTML turns these into others, as the standard says.
TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")))


@given(TEXT, TEXT)
def test_no_text_becomes_markup(text, value):
    page = Page(tag("p", text, title=value))
    assert page.elements == [("p", {"title": value})]
    assert page.text == text


def test_markup_is_taken_as_it_is_and_nothing_is_left_out_of_order():
    inner = tag("b", "<i>")
    assert inner == "<b>&lt;i&gt;</b>"
    assert join(inner, None, 3, "&") == "<b>&lt;i&gt;</b>3&amp;"
    assert isinstance(join(), Markup)
    assert tag("img", src="a", class_=None, aria_label="b") == '<img src="a" aria-label="b">'


@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (5, 11, 3), (1, 257, 3)])
def test_pixels_come_back_from_the_address(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    kind, text = data_uri(pixels).split(",")
    assert kind == "data:image/png;base64"
    image = Image.open(io.BytesIO(base64.b64decode(text)))
    image.verify()  # checksums
    image = Image.open(io.BytesIO(base64.b64decode(text)))
    assert np.array_equal(np.asarray(image), pixels)


def test_smaller_pixels_are_means_of_areas():
    pixels = torch.randint(0, 256, (12, 8, 3), generator=torch.Generator().manual_seed(0))
    small = shrink(pixels.to(torch.uint8).numpy(), 6)
    assert small.shape == (6, 4, 3)
    wanted = pixels.double().reshape(6, 2, 4, 2, 3).mean((1, 3))
    assert (torch.from_numpy(small).double() - wanted).abs().max() <= 0.5
    assert shrink(small, 6) is small
    assert shrink(np.zeros((1000, 1), np.uint8), 10).shape == (10, 1)
