# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of any size that the host makes: sides that are multiples of 8 pixels."""

from __future__ import annotations

import math

import pytest
import reference_pack
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from narrow_models import noise
from real_host import relative, sample
from side_by_side import TOLERANCE, model_of, our_prompt, ours, theirs

import attnpatch as ap

pytestmark = reference_pack.needs_pack
LEVELS = {"sd1": range(4), "sdxl": range(1, 3)}
SIDES = st.integers(8, 40)  # of the latent: 64 to 320 pixels


def grids(family, height, width):
    """Token grids of the levels with attention: halved and rounded up."""
    return [(math.ceil(height / 2**n), math.ceil(width / 2**n)) for n in LEVELS[family]]


def reference_is_right(family, height, width):
    """Whether the pack's guess of each grid from the number of tokens is the grid."""

    def guess(tokens):
        rows = int(height / math.sqrt(height * width / tokens))
        rows += int(tokens % rows != 0)
        return rows, tokens // rows

    return all(guess(h * w) == (h, w) for h, w in grids(family, height, width))


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def patched(request):
    family = request.param
    with reference_pack.middle_block():
        return family, ours(family), theirs(family)


@settings(max_examples=8, deadline=None)
@given(SIDES, SIDES)
@example(8, 80)
@example(61, 8)
@example(13, 29)
def test_without_a_mask(patched, height, width):
    _, mine, reference = patched
    size = {"size": (height, width), "steps": 1}
    assert relative(sample(mine, **size), sample(reference, **size)) < TOLERANCE


@settings(max_examples=8, deadline=None)
@given(SIDES, SIDES, st.integers(1, 2))
def test_with_a_mask(patched, height, width, batch):
    family = patched[0]
    mask = noise(batch, 8 * height, 8 * width, seed=height).sigmoid()
    mine = ours(family, mask=mask)
    size = {"size": (height, width), "steps": 1, "batch": batch}
    picture = sample(mine, **size)
    if reference_is_right(family, height, width):
        with reference_pack.middle_block():
            expected = sample(theirs(family, attn_mask=mask), **size)
        assert relative(picture, expected) < TOLERANCE


@settings(max_examples=6, deadline=None)
@given(SIDES, SIDES)
@example(11, 78)  # the pack's guess is wrong here
def test_a_mask_of_ones_is_no_mask_and_halves_add_up(patched, height, width):
    family, mine, _ = patched
    size = {"size": (height, width), "steps": 1}
    expected = sample(mine, **size)
    ones = ours(family, mask=torch.ones(1, 8 * height, 8 * width))
    assert relative(sample(ones, **size), expected) < 1e-5
    left = noise(1, 8 * height, 8 * width, seed=width).sigmoid()
    halves = [our_prompt(family, mask=mask) for mask in (left, 1 - left)]
    assert relative(sample(ap.patch_model(model_of(family), halves), **size), expected) < TOLERANCE


def test_the_reference_is_right_nearly_everywhere():
    sizes = [(height, width) for height in range(8, 129) for width in range(8, 129)]
    for family in LEVELS:
        right = sum(reference_is_right(family, *size) for size in sizes)
        assert 0.5 < right / len(sizes) < 1
