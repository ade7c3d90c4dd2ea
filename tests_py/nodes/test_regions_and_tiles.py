# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Regions that are applied together, and references cut into tiles."""

import pytest
import torch
from running import near, run

from attnpatch.nodes.ipadapter.tiled import cut_tiles


def test_regions_are_applied_together(model, image, raw_adapter, clip_vision, render):
    host, raw = model(), raw_adapter()
    left = torch.zeros(1, 64, 64)
    left[:, :, :32] = 1
    regions = [
        {"image": image(seed=1), "image_weight": 0.7, "mask": left, "weight_type": "ease in"},
        {"image": image(seed=2), "image_weight": 1.1, "mask": 1 - left, "weight_type": "linear"},
    ]
    params = [run("IPAdapterRegionalConditioning", **region)[0] for region in regions]
    (both,) = run("IPAdapterCombineParams", params_1=params[0], params_2=params[1])
    assert both["weight"] == [0.7, 1.1]
    (patched,) = run("IPAdapterFromParams", model=host, ipadapter=raw, ipadapter_params=both,
                     clip_vision=clip_vision)  # fmt: skip
    expected = host
    for region in regions:
        (expected,) = run(
            "IPAdapterAdvanced", model=expected, ipadapter=raw, image=region["image"],
            weight=region["image_weight"], weight_type=region["weight_type"],
            attn_mask=region["mask"], clip_vision=clip_vision,
        )  # fmt: skip
    near(render(patched), render(expected))


def test_several_sets_of_params_keep_their_order():
    sets = {f"params_{n}": {name: [n] for name in ("image", "attn_mask", "weight", "weight_type",
                                                    "start_at", "end_at")}
            for n in (1, 2, 3, 5)}  # fmt: skip
    (found,) = run("IPAdapterCombineParams", **sets)
    assert found["start_at"] == [1, 2, 3, 5]


def test_prompts_of_a_region_are_limited_to_its_mask(image):
    mask, options = torch.ones(1, 8, 8), {"pooled_output": 1}
    _, positive, negative = run(
        "IPAdapterRegionalConditioning", image=image(), prompt_weight=2.5, mask=mask,
        positive=[["tokens", options]],
    )  # fmt: skip
    assert negative is None and options == {"pooled_output": 1}
    ((tokens, limited),) = positive
    assert tokens == "tokens" and limited.pop("mask") is mask
    assert limited == {"pooled_output": 1, "mask_strength": 2.5, "set_area_to_bounds": False}


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"),
    [
        (512, 512, 2, 2),  # a square
        (400, 520, 2, 2),  # nearly one: cropped
        (300, 600, 1, 2),  # twice as wide
        (300, 780, 1, 3),  # 2.6 times: three that overlap
        (900, 200, 4, 1),  # 4.5 times as high: cropped to four
    ],
)
def test_tiles_cover_the_picture(height, width, rows, columns, image):
    tiles, masks = cut_tiles(image(2, height, width), None, 0.0)
    assert tiles.shape == (rows * columns, 2, 256, 256, 3)
    covered = masks.sum(0)
    assert float(covered.min()) == pytest.approx(1)
    assert float(masks.amax()) <= 1
    short = (rows == 1, columns == 1)
    assert [masks.shape[-2] == 256, masks.shape[-1] == 256] == list(short)


def test_tiles_lie_where_their_masks_say():
    picture = torch.zeros(1, 512, 512, 3)
    picture[:, 256:, :256, 0] = 1
    tiles, masks = cut_tiles(picture, None, 0.0)
    assert [float(tile[..., 0].mean()) for tile in tiles] == [0, 0, 1, 0]
    assert float(masks[2, 0, 256:, :256].min()) == pytest.approx(1)
    assert float(masks[2, 0].sum()) == pytest.approx(256 * 256)


def test_a_mask_is_cut_along(image):
    mask = torch.zeros(1, 10, 20)
    mask[:, :, 10:] = 1
    _, masks = cut_tiles(image(1, 100, 200), mask, 0.3)
    assert float(masks[0].mean()) < 0.01
    assert float(masks[1, 0, :, 270:].mean()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("batch", ["", "Batch"])
def test_tiled_node(batch, model, image, raw_adapter, clip_vision, render):
    host, raw, given = model(), raw_adapter(), image(2 if batch else 1, 40, 80)
    patched, tiles, masks = run(f"IPAdapterTiled{batch}", model=host, ipadapter=raw, image=given,
                                weight=0.8, clip_vision=clip_vision)  # fmt: skip
    count = len(given)
    assert tiles.shape == (2 * count, 256, 256, 3) and masks.shape == (2, 256, 512)
    expected = host
    for number in range(2):
        (expected,) = run(
            f"IPAdapter{batch or 'Advanced'}", model=expected, ipadapter=raw, weight=0.8,
            image=tiles[number * count : (number + 1) * count], attn_mask=masks[number],
            clip_vision=clip_vision,
        )  # fmt: skip
    near(render(patched, batch=2), render(expected, batch=2))
