# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Weights for frames, and pictures made ready for an encoder."""

import math

import numpy as np
import pytest
import torch
from fake_adapters import random_state_kept
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from running import run

from attnpatch.nodes.pictures import gaussian_blur, resize_by_pillow, sharpen


def numbered(count):
    """Pictures of one pixel that hold their number."""
    return torch.arange(float(count)).view(-1, 1, 1, 1).expand(count, 1, 1, 3)


def numbers(pictures):
    return [] if pictures is None else pictures[:, 0, 0, 0].int().tolist()


def test_custom_weights_and_their_reverse():
    weights, back, count, *_ = run("IPAdapterWeights", weights="1, 0.5\n0,", timing="custom")
    assert weights == [1.0, 0.5, 0.0] and back == [0.0, 0.5, 1.0] and count == 3
    assert run("IPAdapterWeights", weights="", timing="custom")[0] == [0.0]


@pytest.mark.parametrize(
    ("timing", "third"),
    [
        ("linear", 0.5),
        ("ease_in_out", (1 - math.cos(math.pi / 2)) / 2),
        ("ease_in", math.sin(math.pi / 4)),
        ("ease_out", 1 - math.cos(math.pi / 4)),
    ],
)
def test_ramps(timing, third):
    weights = run("IPAdapterWeights", weights="0, 2", timing=timing, frames=9, start_frame=1,
                  end_frame=6)[0]  # fmt: skip
    assert len(weights) == 9
    assert weights[:2] == [0.0, 0.0] and weights[5:] == [2.0] * 4
    assert weights[3] == pytest.approx(2 * third)


@given(
    frames=st.integers(0, 12), start=st.integers(0, 12), end=st.integers(0, 20),
    timing=st.sampled_from(["linear", "ease_in", "random"]),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_ramps_keep_between_their_ends(frames, start, end, timing):
    weights = run("IPAdapterWeights", weights="0.2, 0.8", timing=timing, frames=frames,
                  start_frame=start, end_frame=end)[0]  # fmt: skip
    assert all(0.2 <= weight <= 0.8 for weight in weights)
    assert len(weights) >= max(frames, 2)


def test_random_weights_depend_on_the_inputs_alone():
    values = {"weights": "0, 1", "timing": "random", "frames": 6}
    with random_state_kept():
        first = run("IPAdapterWeights", **values)[0]
    assert run("IPAdapterWeights", **values)[0] == first
    assert run("IPAdapterWeights", **values | {"weights": "0, 1.0"})[0] != first
    assert len(set(first)) == 6


def test_full_batch():
    found = run("IPAdapterWeights", weights="1, 0", timing="custom", image=numbered(2),
                add_starting_frames=1, add_ending_frames=2)  # fmt: skip
    assert found[0] == [1, 1, 0, 1, 0, 0, 0]
    assert numbers(found[3]) == [0, 0, 0, 1, 1, 1, 1]
    assert found[4] is None and found[2] == 7


def test_shift_batches():
    found = run("IPAdapterWeights", weights="1, 0", timing="custom", method="shift batches",
                image=numbered(3), add_starting_frames=1)  # fmt: skip
    assert found[0] == [1, 1, 0, 1, 0]
    assert numbers(found[3]) == [0, 0, 0, 1, 1]
    assert numbers(found[4]) == [0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("count", "weights", "first", "second"),
    [
        (3, [1, 0.2, 0.2, 1], [0, 0, 2, 2], [1, 1, 1, 1]),
        (4, [1, 0.2, 0.2, 1, 1, 0.2], [0, 0, 2, 2, 2, 2], [1, 1, 1, 1, 3, 3]),
        (2, [1, 0.2], [0, 0], [1, 1]),
    ],
)
def test_alternate_batches(count, weights, first, second):
    found = run("IPAdapterWeights", weights="1, 0.2", timing="custom", method="alternate batches",
                image=numbered(count))  # fmt: skip
    assert found[0] == pytest.approx(weights)
    assert (numbers(found[3]), numbers(found[4])) == (first, second)


def test_strategy_does_the_same_again_and_schedules_prompts():
    found = run("IPAdapterWeights", frames=4, image=numbered(2), add_starting_frames=3,
                add_ending_frames=1)  # fmt: skip
    again = run("IPAdapterWeightsFromStrategy", weights_strategy=found[5], image=numbered(2))
    assert again[:3] == found[:3] and again[5] == found[5]
    assert torch.equal(again[3], found[3])
    (text,) = run("IPAdapterPromptScheduleFromWeightsStrategy", weights_strategy=found[5],
                  prompt="a cat\n\na dog\na bird")  # fmt: skip
    assert text == '"0": "a cat",\n"3": "a cat",\n"7": "a dog",\n"11": "a dog",\n'
    empty = run("IPAdapterPromptScheduleFromWeightsStrategy", weights_strategy=found[5])
    assert empty == ("",)


def test_combine_weights():
    assert run("IPAdapterCombineWeights", weights_1=0.5, weights_2=[1.0, 0.0]) == (
        [0.5, 1.0, 0.0],
        3,
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weights": "1; 0"}, "weights: expected numbers"),
        ({"image": numbered(1), "method": "shift batches"}, "image: expected at least 2 pictures"),
    ],
)
def test_weights_name_what_is_wrong(values, message):
    with pytest.raises(ValueError, match=message):
        run("IPAdapterWeights", **values)


@pytest.mark.parametrize(
    ("position", "first"), [("left", 0), ("center", 64), ("right", 128), ("top", 64)]
)
def test_prepared_pictures_are_crops(position, first, image):
    wide = image(1, 64, 192)
    found = run("PrepImageForClipVision", image=wide, crop_position=position)[0]
    crop = (wide[0, :, first : first + 64] * 255).byte().numpy()
    wanted = Image.fromarray(crop).resize((224, 224), Image.Resampling.LANCZOS)
    assert np.array_equal((found[0] * 255).round().byte().numpy(), np.asarray(wanted))


def test_prepared_pictures_are_padded():
    tall = torch.ones(1, 96, 32, 3)
    found = run("PrepImageForClipVision", image=tall, crop_position="pad", interpolation="BOX")[0]
    assert found.shape == (1, 224, 224, 3)
    assert float(found[:, :, :70].max()) == 0 and float(found[:, :, 80:144].min()) == 1


def test_sharpening_widens_an_edge_and_leaves_flat_areas():
    picture = torch.full((1, 8, 8, 3), 0.4)
    picture[:, :, 4:] = 0.6
    sharp = sharpen(picture, 0.5)
    assert float(sharp[0, 4, 3, 0]) < 0.4 and float(sharp[0, 4, 4, 0]) > 0.6
    torch.testing.assert_close(sharp[:, 1:-1, 1], picture[:, 1:-1, 1])
    by_node = run("PrepImageForClipVision", image=picture, sharpening=0.5)[0]
    small = resize_by_pillow(picture, (224, 224), "LANCZOS")
    assert torch.equal(by_node, sharpen(small, 0.5))


@pytest.mark.parametrize("kind", ["fade", "dissolve", "gaussian", "shuffle"])
def test_noise_repeats_and_keeps_generators(kind, image):
    with random_state_kept():
        first = run("IPAdapterNoise", type=kind, strength=0.5, image_optional=image(2, 64, 80))[0]
    again = run("IPAdapterNoise", type=kind, strength=0.5, image_optional=image(2, 64, 80))[0]
    assert torch.equal(first, again)
    assert first.shape == (2, 224, 224, 3)
    assert 0 <= float(first.min()) <= float(first.max()) <= 1
    other = run("IPAdapterNoise", type=kind, strength=0.5, image_optional=image(2, 64, 80, 5))[0]
    assert not torch.equal(first, other)


def test_noise_without_a_picture_and_without_strength(image):
    nothing = run("IPAdapterNoise", type="fade", strength=1.0)[0]
    assert nothing.shape == (1, 224, 224, 3)
    assert float(nothing.mean()) == pytest.approx(0.5, abs=0.01)
    given = image(1, 224, 224)
    for kind in ("fade", "dissolve", "gaussian"):
        kept = run("IPAdapterNoise", type=kind, strength=0.0, image_optional=given)[0]
        assert torch.equal(kept, given)


def test_blur_is_a_gaussian():
    dot = torch.zeros(1, 1, 21, 21)
    dot[..., 10, 10] = 1
    blurred = gaussian_blur(dot, 5)
    sigma = 0.3 * ((5 - 1) * 0.5 - 1) + 0.8
    taps = torch.exp(-0.5 * (torch.arange(-2.0, 3) / sigma) ** 2)
    taps /= taps.sum()
    torch.testing.assert_close(blurred[0, 0, 8:13, 8:13], taps[:, None] * taps)
    rough = run("IPAdapterNoise", blur=0)[0]
    assert float(run("IPAdapterNoise", blur=8)[0].std()) < 0.3 * float(rough.std())
    with pytest.raises(ValueError, match="blur: 31 taps are too many"):
        gaussian_blur(dot[..., :10, :], 31)
