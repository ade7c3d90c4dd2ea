# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from attnpatch.vision import clip_preprocess

CROPS = ("center", "top", "bottom", "left", "right", "pad")


def picture(height, width, dtype=np.uint8, seed=0):
    random = np.random.default_rng(seed)
    if dtype == np.uint8:
        return random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return random.random((height, width, 3)).astype(dtype)


def reference(image, size=224, normalize=True):
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        do_rescale=image.dtype == np.uint8,
        do_normalize=normalize,
    )
    return processor(image, input_data_format="channels_last", return_tensors="np").pixel_values


def assume_order_of_passes(height, width):
    # Older Pillows resize the rows first whatever the shape: other roundings in tall pictures.
    assume(int(PIL.__version__.split(".")[0]) >= 13 or height <= 2 * width)


sides = st.integers(1, 300) | st.sampled_from([1, 2, 223, 224, 225, 700])


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(sides, sides, st.sampled_from([224, 336, 1, 31]), st.integers(0, 9), st.booleans())
@example(1, 1, 224, 0, False)
@example(1, 2000, 31, 0, False)
@example(2000, 1, 31, 0, False)
@example(768, 1024, 224, 0, True)
@example(1201, 400, 224, 0, True)
def test_equals_clip_image_processor_on_any_size(height, width, size, seed, white_noise):
    assume_order_of_passes(height, width)
    image = picture(height, width, seed=seed)
    if white_noise:
        image = (image > 127).astype(np.uint8) * 255
    got = clip_preprocess(image, size, normalize=False)
    np.testing.assert_array_equal(got, reference(image, size, normalize=False))


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(sides, sides, st.sampled_from([np.float16, np.float32, np.float64]), st.integers(0, 9))
def test_equals_clip_image_processor_on_floats(height, width, dtype, seed):
    assume_order_of_passes(height, width)
    image = picture(height, width, dtype, seed)
    image[0, 0, 0] = 0.5  # a picture of zeros and ones alone means another range to the reference
    np.testing.assert_array_equal(
        clip_preprocess(image, normalize=False), reference(image, normalize=False)
    )


def test_equals_clip_image_processor_after_normalisation():
    image = picture(300, 200)
    np.testing.assert_array_equal(clip_preprocess(image), reference(image))


def test_uint8_and_its_float_form_give_the_same():
    image = picture(57, 301)
    for dtype in (np.float32, np.float64):
        np.testing.assert_array_equal(
            clip_preprocess(image), clip_preprocess((image / 255).astype(dtype))
        )


def test_a_float_picture_of_zeros_and_ones_is_black_and_white():
    image = np.ones((3, 4, 3), np.float32)
    assert (clip_preprocess(image, 8, normalize=False) == 1).all()


@given(
    st.sampled_from(CROPS),
    st.integers(1, 60),
    st.integers(1, 60),
    st.integers(1, 40),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_result_is_a_picture_of_the_size_whatever_the_crop(crop, height, width, size, as_float):
    image = picture(height, width, np.float32 if as_float else np.uint8)
    got = clip_preprocess(image, size, crop=crop, normalize=False)
    assert got.shape == (1, 3, size, size) and got.dtype == np.float32
    assert got.flags.c_contiguous and got.min() >= 0 and got.max() <= 1


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 30))
@settings(max_examples=30, deadline=None)
def test_crops_mirror_and_transpose_with_the_picture(height, width, size):
    image = picture(height, width)

    def run(image, crop):
        return clip_preprocess(image, size, crop=crop, normalize=False)

    def flip(pixels, axis):
        return np.flip(pixels, axis)

    # The weights of mirrored outputs may differ by one unit of 22 bits: one level at a tie.
    level = 1.01 / 255
    np.testing.assert_allclose(
        run(image[:, ::-1], "left"), flip(run(image, "right"), 3), atol=level
    )
    np.testing.assert_allclose(run(image[::-1], "top"), flip(run(image, "bottom"), 2), atol=level)
    # Rows, then columns are cut to 8 bits: transposing swaps the order, which shows in the rounding
    # and, with more contrast than this, in the clamping.
    soft = image // 2 + 64
    transposed = run(soft.transpose(1, 0, 2), "left").transpose(0, 1, 3, 2)
    np.testing.assert_allclose(transposed, run(soft, "top"), atol=3 * level)


def test_pad_keeps_the_whole_picture_on_black():
    image = np.full((10, 20, 3), 255, np.uint8)
    pixels = clip_preprocess(image, 8, crop="pad", normalize=False)[0, 0]
    assert (pixels[2:6] == 1).all()
    assert (pixels[:2] == 0).all() and (pixels[6:] == 0).all()


def test_batches_lists_and_single_pictures_agree():
    a, b, c = picture(40, 60, seed=1), picture(40, 60, seed=2), picture(33, 21, np.float32)
    single = [clip_preprocess(image) for image in (a, b, c)]
    np.testing.assert_array_equal(clip_preprocess(np.stack([a, b])), np.concatenate(single[:2]))
    np.testing.assert_array_equal(clip_preprocess([a, b, c]), np.concatenate(single))
    np.testing.assert_array_equal(clip_preprocess((a[None],)), single[0])
    assert clip_preprocess(np.empty((0, 4, 4, 3), np.uint8), 5).shape == (0, 3, 5, 5)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, ">f4", ">f8"])
def test_any_strides_and_byte_order(dtype):
    whole = picture(80, 90).astype(dtype)
    whole = whole if dtype == np.uint8 else whole / np.asarray(255, dtype)
    for view in (
        whole[5:71, 3:88],
        whole[::2, ::-1],
        whole[..., ::-1],
        whole.transpose(1, 0, 2),
        np.broadcast_to(whole[:1], (50, 90, 3)),
        np.asfortranarray(whole),
    ):
        before = view.copy()
        got = clip_preprocess(view, 32)
        np.testing.assert_array_equal(got, clip_preprocess(before, 32))
        np.testing.assert_array_equal(view, before)


def test_takes_files_pillow_pictures_and_tensors(tmp_path):
    image = picture(30, 50)
    want = clip_preprocess(image)
    sideways = Image.fromarray(np.rot90(image))
    sideways.getexif()[0x0112] = 6  # EXIF's orientation: a quarter to the right
    sideways.save(tmp_path / "phone.png", exif=sideways.getexif())
    np.testing.assert_array_equal(clip_preprocess(tmp_path / "phone.png"), want)
    np.testing.assert_array_equal(clip_preprocess(sideways), want)
    deep = image.astype(np.uint16) * 257
    np.testing.assert_array_equal(clip_preprocess(deep), want)
    np.testing.assert_array_equal(clip_preprocess(Image.fromarray(image)), want)
    np.testing.assert_array_equal(clip_preprocess(torch.from_numpy(image)), want)
    np.testing.assert_array_equal(clip_preprocess([Image.fromarray(image)]), want)


def test_transparent_pictures_show_the_background():
    hidden = Image.new("RGBA", (9, 9), (10, 20, 30, 0))
    for background, options in ((255, {}), (40, {"background": (40, 40, 40)})):
        want = clip_preprocess(np.full((9, 9, 3), background, np.uint8))
        np.testing.assert_array_equal(clip_preprocess(hidden, **options), want)


def test_serves_several_threads_at_once():
    images = [picture(200 + 10 * i, 300, seed=i) for i in range(8)]
    want = [clip_preprocess(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for got, expected in zip(pool.map(clip_preprocess, images), want, strict=True):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.01, 1.01, 255.0])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_float_outside_its_range_is_named(value, dtype):
    images = picture(2 * 6, 7, dtype).reshape(2, 6, 7, 3)
    images[1, 4, 5, 2] = value
    match = r"images\[1\]: expected finite values in \[0, 1\], got .* at row 4, column 5, channel 2"
    with pytest.raises(ValueError, match=match):
        clip_preprocess(images)


def test_a_float_only_just_outside_is_clamped():
    image = picture(20, 20, np.float32)
    image[0, 0], image[1, 1] = 1, 0
    off = image.copy()
    off[0, 0], off[1, 1] = 1.0009, -0.0009
    np.testing.assert_array_equal(clip_preprocess(off), clip_preprocess(image))


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"images": np.zeros((4, 4), np.uint8)}, ValueError, r"images: .* got \(4, 4\)"),
        ({"images": np.zeros((3, 4, 4), np.uint8)}, ValueError, r"images: .* got \(3, 4, 4\)"),
        ({"images": np.zeros((4, 4, 4), np.uint8)}, ValueError, r"images: .* got \(4, 4, 4\)"),
        ({"images": np.zeros((1, 1, 4, 4, 3))}, ValueError, r"images: .* got \(1, 1, 4, 4, 3\)"),
        ({"images": np.zeros((0, 4, 3), np.uint8)}, ValueError, r"one pixel, got .* \(0, 4, 3\)"),
        ({"images": np.zeros((4, 4, 3), np.int64)}, TypeError, "images: expected uint8.* int64"),
        ({"images": "no such cat.png"}, FileNotFoundError, r"no such cat\.png"),
        ({"images": None}, TypeError, "images: expected a picture.* got NoneType"),
        ({"background": (0, 0, 300)}, ValueError, "background: expected three integers"),
        ({"images": []}, ValueError, "images: expected at least one picture"),
        ({"images": [np.zeros((4, 4), np.uint8)]}, ValueError, r"images\[0\]: .* got \(4, 4\)"),
        ({"size": 0}, ValueError, "size: expected 1 to 8192, got 0"),
        ({"size": 10**20}, ValueError, "size: expected 1 to 8192, got 1000"),
        ({"size": 224.0}, TypeError, r"size: expected an integer, got 224\.0"),
        ({"crop": "middle"}, ValueError, "crop: expected 'center', .* got 'middle'"),
        ({"crop": None}, TypeError, "crop: expected a string, got None"),
    ],
)
def test_a_wrong_argument_is_named(arguments, error, text):
    with pytest.raises(error, match=text):
        clip_preprocess(**{"images": np.zeros((4, 4, 3), np.uint8), **arguments})


def test_without_opencv_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "attnpatch._vision", None)
    monkeypatch.delattr("attnpatch._vision", raising=False)
    with pytest.raises(ImportError, match="libopencv-dev and libeigen3-dev"):
        clip_preprocess(picture(4, 4))
