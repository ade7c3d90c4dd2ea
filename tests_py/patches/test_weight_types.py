# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Weight types as sums of image prompts. What they compute is tested with the nodes."""

import pytest
import torch

from attnpatch.engine import Call, PatchStack, Site, layer_table, weight_presets
from attnpatch.patches import WEIGHT_TYPES, ImagePrompt, split_by_weight_type


@pytest.fixture
def whole():
    """An image prompt for all layers of a family, of two tokens."""

    def make(family="sdxl", **options):
        generator = torch.Generator().manual_seed(0)
        pairs = [
            tuple(torch.randn(1, 2, c, generator=generator) for _ in range(2))
            for c in layer_table(family).channels
        ]
        return ImagePrompt.from_keys_values(pairs, pairs, **options)

    return make


def acting(prompt, family):
    """The layers at which a prompt acts, and its weights there."""
    table = layer_table(family)
    weights = prompt.weight.for_layers(table)
    return {layer.index: w for layer, w in zip(table, weights, strict=True) if w}


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("weight_type", WEIGHT_TYPES)
def test_parts_share_tensors_and_no_layer(weight_type, family, whole):
    prompt = whole(family)
    parts = split_by_weight_type(prompt, weight_type, 0.5, 2.0)
    assert all(part.keys_values is prompt.keys_values for part in parts)
    layers = [index for part in parts for index in acting(part, family)]
    assert len(set(layers)) == len(layers)
    assert PatchStack(parts).nbytes == prompt.nbytes


def test_every_preset_is_a_weight_type():
    assert set(weight_presets()) <= set(WEIGHT_TYPES)


def test_composition_has_a_weight_of_its_own(whole):
    style, composition = split_by_weight_type(whole(), "style and composition", 0.5, 2.0)
    assert set(acting(style, "sdxl").values()) == {0.5}
    assert set(acting(composition, "sdxl").values()) == {2.0}
    same = split_by_weight_type(whole(), "style and composition", 0.5)
    assert {w for part in same for w in acting(part, "sdxl").values()} == {0.5}


def test_leading_away_turns_the_roles_around(whole):
    prompt = whole(roles={2: "cond", 3: "off"})
    style, composition = split_by_weight_type(prompt, "style transfer precise")
    assert style.roles == prompt.roles
    assert dict(composition.roles) == {0: "off", 1: "cond", 2: "off", 3: "off"}


def test_weights_for_pictures(whole):
    (prompt,) = split_by_weight_type(whole(), "ease in", [0.5, 1.0])
    assert prompt.weight.samples == (0.5, 1.0)
    assert prompt.weight.layers == "ease in"


def test_layers_by_hand_are_split_where_the_type_leads_away(whole):
    (one,) = split_by_weight_type(whole(), "ease in", 2.0, layers="3: 1, 6:0.5")
    assert dict(one.weight.layers) == {3: 1.0, 6: 0.5} and one.weight.scale == 2.0
    kept, away = split_by_weight_type(whole(), "composition precise", layers="3:1, 6:0.5")
    assert (dict(kept.weight.layers), dict(away.weight.layers)) == ({3: 1.0}, {6: 0.5})
    assert dict(away.roles) == {0: "off", 1: "cond"}
    (away,) = split_by_weight_type(whole(), "style transfer precise", layers="3:1")
    assert dict(away.roles) == {0: "off", 1: "cond"}


def test_leading_away_by_hand_needs_a_known_unet(prompt):
    with pytest.raises(ValueError, match=r"known for SD1\.x, SD2\.x and SDXL; this adapter has 9"):
        split_by_weight_type(prompt(), "composition precise", layers="3:1")


def rows(prompt, table, batch, samples=None):
    call = Call(latent=(6, 5), batch=batch, chunks=(1, 0), samples=samples, progress=0.5)
    site = Site.over_text(table[0], call)
    found = prompt.bind(table).edits(call, prompt.bind(table).time_key(call)).branches
    return found[0].rows, found[0].weights(0), found[0].mask_rows, site


def test_the_last_picture_may_serve_the_rest(prompt, table):
    many = prompt(
        torch.tensor([0.1, 0.2]),
        pictures=3,
        negatives=3,
        mask=torch.ones(2, 4, 4),
        repeat_last=True,
    )
    found = rows(many, table, 8)
    assert found[0] == (3, 4, 5, 5, 0, 1, 2, 2)
    assert found[1] == pytest.approx((0.1, 0.2, 0.2, 0.2) * 2)
    assert found[2] == (0, 1, 1, 1) * 2
    assert rows(many, table, 2)[0] == (3, 0)
    assert rows(many, table, 4, samples=(7, 1))[0] == (5, 4, 2, 1)


def test_else_that_is_an_error(prompt, table):
    with pytest.raises(ValueError, match="got 3 for 4 cond and 4 uncond rows"):
        rows(prompt(pictures=3), table, 8)
    with pytest.raises(ValueError, match="expected 1 picture or equally many"):
        prompt(torch.tensor([0.1, 0.2]), pictures=3)


def test_holding_the_last_is_part_of_the_value(prompt):
    held = prompt(pictures=3, repeat_last=True)
    assert held != held.replace(repeat_last=False)
    assert ImagePrompt.from_state(*held.state()) == held
    assert "repeat_last=True" in repr(held)
