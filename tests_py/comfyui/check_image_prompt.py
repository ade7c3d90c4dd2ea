# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Image prompts of the public pack and ours, sampled side by side in the real ComfyUI."""

from __future__ import annotations

import pytest
import reference_pack
import torch
from narrow_adapters import make_features, make_state
from narrow_models import noise
from real_host import relative, sample
from side_by_side import check, model_of, our_prompt, ours, state_of, theirs

import attnpatch as ap

pytestmark = reference_pack.needs_pack

PACK = "comfyui_ipadapter_plus"

# Weights that act alike at any width: two of the scalings multiply by channels / 1280.
SCALINGS = {
    "V only": 1.0,
    "K+V": 0.7,
    "K+V w/ C penalty": 12.0,
    "K+mean(V) w/ C penalty": 12.0,
}
WEIGHT_TYPES = [
    "linear",
    "ease in",
    "ease out",
    "ease in-out",
    "reverse in-out",
    "weak input",
    "weak output",
    "weak middle",
    "strong middle",
    "style transfer",
    "composition",
    "strong style transfer",
]


@pytest.fixture(params=["sd1", "sdxl"])
def family(request):
    return request.param


def test_the_reference_misses_the_middle_block(family):
    with reference_pack.middle_block():
        complete = theirs(family)
    check(family, ours(family), complete)
    check(family, ours(family, compat=PACK), theirs(family))
    assert relative(sample(complete), sample(theirs(family))) > 0.01


@pytest.mark.parametrize("compat", [None, PACK], ids=["every site", "quirks"])
@pytest.mark.parametrize("weight_type", WEIGHT_TYPES)
def test_weight_types(family, weight_type, compat):
    with reference_pack.middle_block(reached=compat is None):
        reference = theirs(family, weight=0.8, weight_type=weight_type)
    check(family, ours(family, weight=ap.Weight(0.8, weight_type), compat=compat), reference)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_embeds_scaling(family, scaling):
    weight = SCALINGS[scaling]
    with reference_pack.middle_block():
        reference = theirs(family, weight=weight, embeds_scaling=scaling)
    check(family, ours(family, weight=weight, scaling=scaling), reference)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_embeds_scaling_with_several_pictures_and_a_weight_type(family, scaling):
    weight = SCALINGS[scaling]
    features = make_features(pictures=3)
    with reference_pack.middle_block():
        reference = theirs(
            family, features=features, weight=weight, embeds_scaling=scaling, weight_type="ease in"
        )
    mine = ours(family, features=features, weight=ap.Weight(weight, "ease in"), scaling=scaling)
    check(family, mine, reference)


@pytest.mark.parametrize("window", [(0.0, 0.5), (0.3, 0.8), (0.5, 1.0), (0.333, 0.667)])
def test_windows(family, window):
    start, end = window
    with reference_pack.middle_block():
        reference = theirs(family, start_at=start, end_at=end)
    check(family, ours(family, start=start, end=end), reference, steps=6)


@pytest.mark.parametrize("combine", ["concat", "add", "subtract", "average", "norm average"])
def test_several_pictures(family, combine):
    features = make_features(pictures=3)
    with reference_pack.middle_block():
        reference = theirs(family, features=features, combine_embeds=combine)
    adapter = ap.load_image_adapter(state_of(family))
    embeds = adapter.get_image_embeds(*features, combine=combine, compat=PACK)
    mine = ap.patch_model(model_of(family), ap.ImagePrompt(adapter, embeds))
    check(family, mine, reference)


@pytest.mark.parametrize(
    "mask_size", [(64, 96), (16, 24), (100, 37), (1, 1)], ids=lambda s: f"{s[0]}x{s[1]}"
)
def test_masks(family, mask_size):
    mask = noise(1, *mask_size, seed=30).sigmoid()
    with reference_pack.middle_block():
        reference = theirs(family, attn_mask=mask)
    check(family, ours(family, mask=mask), reference)


@pytest.mark.parametrize("batch", [1, 2, 3, 4])
def test_batches(family, batch):
    mask = noise(batch, 32, 48, seed=30).sigmoid()
    with reference_pack.middle_block():
        reference = theirs(family, attn_mask=mask, weight=0.8)
    check(family, ours(family, mask=mask, weight=0.8), reference, batch=batch)


@pytest.mark.parametrize("batch", [2, 3])
def test_one_picture_for_each_of_the_batch(family, batch):
    features = make_features(pictures=batch)
    with reference_pack.middle_block():
        reference = theirs(family, features=features, unfold_batch=True)
    check(family, ours(family, features=features, combine="batch"), reference, batch=batch)


@pytest.mark.parametrize("compat", [None, PACK], ids=["every site", "quirks"])
def test_several_adapters(family, compat):
    left = torch.zeros(1, 32, 48)
    left[..., :20] = 1
    first = {"features": make_features(seed=40)}
    second = {"features": make_features(seed=50), "seed": 1}
    with reference_pack.middle_block(reached=compat is None):
        reference = theirs(family, weight=0.7, attn_mask=left, **first)
        reference = theirs(family, reference, weight=0.9, end_at=0.6, attn_mask=1 - left, **second)
    one = our_prompt(family, weight=0.7, mask=left, compat=compat, **first)
    two = our_prompt(family, weight=0.9, end=0.6, mask=1 - left, compat=compat, **second)
    chained = ap.patch_model(ap.patch_model(model_of(family), one), two)
    check(family, chained, reference, steps=5)
    together = ap.patch_model(model_of(family), [one, two])
    assert torch.equal(sample(together), sample(chained))


def test_a_plus_adapter(family):
    """The resampler of the public files, with their sizes."""
    state, features = make_state(family, kind="plus"), make_features(kind="plus")
    with reference_pack.middle_block():
        reference = reference_pack.apply(model_of(family), state, features)
    adapter = ap.load_image_adapter(state)
    mine = ap.ImagePrompt(adapter, adapter.get_image_embeds(*features))
    check(family, ap.patch_model(model_of(family), mine), reference)
