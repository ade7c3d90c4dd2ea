# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Arrays and tensors as pictures: depths, layouts, order of colours, and what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from attnpatch.pictures import read_picture, read_pictures


def picture(height=5, width=7, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_all_depths_of_one_picture_are_the_same(height, width, seed):
    levels = picture(height, width, seed)
    forms = [
        levels,
        levels.astype(np.uint16) * 257,
        (levels.astype(np.uint16) * 257).astype(">u2"),
        (levels / 255).astype(np.float32),
        levels / 255,
        levels[None],
        np.asfortranarray(levels),
        levels[::-1][::-1],
        torch.from_numpy(levels),
        torch.from_numpy(levels).float().div(255).requires_grad_(),
    ]
    for form in forms:
        read = read_picture(form)
        assert read.dtype == np.uint8 and read.flags.c_contiguous
        np.testing.assert_array_equal(read, levels)


def test_sixteen_bits_go_to_the_nearest_level():
    values = np.arange(65536, dtype=np.uint16)
    read = read_picture(np.dstack([values.reshape(256, 256)] * 3))[..., 0].reshape(-1)
    assert np.abs(read - values / 257).max() <= 0.5
    assert (read[0], read[-1]) == (0, 255)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floats_are_cut_to_eight_bits(dtype):
    values = torch.linspace(0, 1, 3 * 40).view(5, 8, 3).to(dtype)
    expected = (values.double() * 255).float().floor().numpy()
    np.testing.assert_allclose(read_picture(values), expected, atol=0)


def test_masks_are_black_and_white():
    mask = np.eye(4, 6, dtype=bool)
    expected = np.dstack([np.where(mask, 255, 0)] * 3)
    np.testing.assert_array_equal(read_picture(mask), expected)
    np.testing.assert_array_equal(read_picture(torch.from_numpy(mask), bgr=True), expected)
    np.testing.assert_array_equal(read_picture(np.dstack([mask] * 3)), expected)


def test_only_arrays_have_another_order_of_colours():
    levels = picture()
    np.testing.assert_array_equal(read_picture(levels, bgr=True), levels[..., ::-1])
    np.testing.assert_array_equal(read_picture(Image.fromarray(levels), bgr=True), levels)


def test_lists_and_batches_of_any_kinds():
    a, b, c = (picture(seed=seed) for seed in range(3))
    read = read_pictures([np.stack([a, b]), Image.fromarray(c), torch.from_numpy(a)[None] / 255])
    assert [p.tolist() for p in read] == [p.tolist() for p in (a, b, c, a)]
    assert read_pictures(np.empty((0, 4, 4, 3), np.uint8)) == []
    np.testing.assert_array_equal(read_pictures(a), a[None])


def off(value, dtype=np.float32):
    array = np.zeros((2, 4, 5, 3), dtype)
    array[1, 2, 3, 1] = value
    return array


@pytest.mark.parametrize(
    ("images", "error", "text"),
    [
        (np.zeros((4, 4), np.uint8), ValueError, r"images: expected RGB .* got \(4, 4\)$"),
        (np.zeros((4, 4, 1), np.uint8), ValueError, r"got \(4, 4, 1\)$"),
        (np.zeros((4, 4, 4), np.uint8), ValueError, r"got \(4, 4, 4\)$"),
        (np.zeros((3, 8, 8), np.uint8), ValueError, r"got \(3, 8, 8\); channels come last"),
        (np.zeros((2, 3, 8, 8)), ValueError, r"got \(2, 3, 8, 8\); channels come last"),
        (np.zeros((1, 1, 4, 4, 3)), ValueError, r"got \(1, 1, 4, 4, 3\)$"),
        (np.zeros((2, 4, 4), bool), ValueError, r"got \(2, 4, 4\)$"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, r"at least one pixel, got .* \(0, 4, 3\)"),
        (np.zeros((0, 4), bool), ValueError, r"at least one pixel, got .* \(0, 4\)"),
        (off(np.nan), ValueError, r"images\[1\]: .* got nan at row 2, column 3, channel 1;"),
        (off(-np.inf), ValueError, "got -inf at row 2"),
        (off(255), ValueError, r"got 255.0 at row 2.*0 to 255 must be uint8"),
        (off(1, np.int64), TypeError, r"images\[0\]: expected uint8, uint16, .* got int64"),
        (off(1, np.int16), TypeError, "got int16"),
        (off(1, np.complex64), TypeError, "got complex64"),
        (off("", object)[0], TypeError, "got object"),
        (torch.zeros(3, 4, 3, dtype=torch.int32), TypeError, "got int32"),
        (None, TypeError, "images: expected a picture: .* got NoneType"),
        ([[[0.5] * 3]], TypeError, r"images\[0\]: expected a picture: .* got list"),
        ([], ValueError, "images: expected at least one picture, got an empty sequence"),
        ([picture(), picture()[0]], ValueError, r"images\[1\]: .* got \(7, 3\)"),
    ],
)
def test_what_is_refused_is_named(images, error, text):
    with pytest.raises(error, match=text):
        read_pictures(images)


def test_one_picture_is_one():
    with pytest.raises(ValueError, match="photo: expected one picture, got a batch of 2"):
        read_picture(np.stack([picture()] * 2), "photo")


@pytest.mark.parametrize(
    ("background", "error"),
    [
        ((0, 0), ValueError),
        ((0, 0, 256), ValueError),
        ((-1, 0, 0), ValueError),
        ((0.5, 0, 0), TypeError),
        (7, TypeError),
        ("red", TypeError),
    ],
)
def test_a_background_is_three_levels(background, error):
    with pytest.raises(error, match="background: expected three integers 0 to 255, got"):
        read_picture(picture(), background=background)
