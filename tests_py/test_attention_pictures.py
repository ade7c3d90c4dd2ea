# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of recorded attention."""

import pytest
import torch
from PIL import Image

from attnpatch import show_attention


def pixels(image):
    return torch.tensor(list(image.tobytes())).view(image.height, image.width, 3)


def test_colours_go_from_blue_to_red():
    shown = pixels(show_attention(torch.tensor([[0.0, 1.0, 2.0, 9.0]]), size=4))
    assert shown.shape == (1, 4, 3)
    assert shown[0, 0, 2] > shown[0, 0, 0], "none: blue"
    assert shown[0, 2, 0] > shown[0, 2, 2], "twice the share: red"
    assert torch.equal(shown[0, 2], shown[0, 3])


def test_map_and_mask_over_a_picture():
    picture = Image.new("RGB", (8, 4), (100, 100, 100))
    attention = torch.tensor([[0.5, 1.5]])
    mask = pixels(show_attention(attention, picture=picture, threshold=1.0))
    assert (mask[:, :4] == 100).all()
    assert (mask[:, 4:] != 100).any()
    heat = pixels(show_attention(attention, picture=picture, opacity=0.0))
    assert (heat == 100).all()


def test_column_means_and_batches_stand_side_by_side(tmp_path):
    means = torch.rand(2, 12, generator=torch.Generator().manual_seed(0))
    shown = show_attention(means, grid=(3, 4), size=64)
    assert shown.size == (128, 48)
    whole = show_attention(means.view(2, 3, 4).half(), size=64)
    assert (pixels(whole) - pixels(shown)).abs().max() <= 1
    first = show_attention(means[0], grid=(3, 4), size=64)
    assert torch.equal(pixels(first), pixels(shown)[:, :64])
    pictures = [Image.new("L", (16, 16)), Image.new("L", (32, 24))]
    assert show_attention(means, pictures, grid=(3, 4)).size == (48, 24)
    shown.save(tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as read:
        assert read.size == shown.size


def test_pictures_in_any_form(tmp_path):
    attention = torch.tensor([[0.5, 1.5]])
    below = torch.linspace(0, 1, 4 * 8 * 3).view(4, 8, 3).mul(255).to(torch.uint8)
    wanted = pixels(show_attention(attention, picture=Image.fromarray(below.numpy())))
    Image.fromarray(below.numpy()).save(tmp_path / "below.png")
    for form in (below, below / 255, below.numpy(), tmp_path / "below.png"):
        assert torch.equal(pixels(show_attention(attention, picture=form)), wanted)
    twice = show_attention(attention[None].expand(2, 1, 2), picture=str(tmp_path / "below.png"))
    assert torch.equal(pixels(twice), torch.cat([wanted, wanted], 1))
    batch = show_attention(attention[None].expand(2, 1, 2), picture=torch.stack([below, below]))
    assert torch.equal(pixels(batch), pixels(twice))


BOTH = [Image.new("RGB", (8, 4))] * 2
WRONG = [
    ({"attention": torch.ones(7), "grid": (2, 4)}, "grid: 2×4 tokens, but attention"),
    ({"attention": torch.ones(8)}, "attention: expected"),
    ({"attention": torch.ones(0, 4)}, "attention: expected"),
    ({"attention": torch.ones(2, 2), "opacity": 1.5}, "opacity: expected 0 to 1, got 1.5"),
    ({"attention": torch.ones(3, 2, 2), "picture": BOTH}, "picture: expected one or 3, got 2"),
    ({"attention": torch.ones(3, 2, 2), "picture": BOTH[:1]}, "picture: expected one or 3, got 1"),
    ({"attention": torch.ones(2, 2), "picture": []}, "picture: expected at least one picture"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_what_does_not_fit_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        show_attention(**arguments)
