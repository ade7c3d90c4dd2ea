# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
import json
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnpatch.engine import Weight, diffusers_layer_table, layer_table, weight_presets

numbers = st.floats(-4, 4)
grammar = st.builds(
    Weight,
    numbers,
    st.one_of(
        numbers,
        st.sampled_from(weight_presets()),
        st.dictionaries(st.integers(0, 10), numbers),
        st.dictionaries(st.sampled_from(["up", "down.block_1", "mid"]), numbers),
        st.lists(numbers, max_size=4),
    ),
    st.lists(st.floats(0, 1)).map(lambda points: [(p, 1.0) for p in sorted(points)]),
    st.lists(numbers, max_size=3),
)


@given(grammar)
def test_weight_is_a_value(weight):
    assert eval(repr(weight), {"Weight": Weight}) == weight
    assert pickle.loads(pickle.dumps(weight)) == weight
    assert Weight.from_json(json.loads(json.dumps(weight.to_json()))) == weight
    assert hash(Weight.from_json(weight.to_json())) == hash(weight)


def test_short_forms():
    assert Weight.of(0.5) == Weight(0.5)
    assert Weight.of(torch.tensor(0.5)) == Weight(0.5)
    assert Weight.of(torch.tensor([0.5, 1.0])) == Weight(samples=(0.5, 1.0))
    assert Weight.of("ease in") == Weight(layers="ease in")
    assert Weight.of({3: 1}) == Weight(layers={3: 1.0})
    assert Weight.of("3:1, 6 : 0.5,") == Weight(layers={3: 1.0, 6: 0.5})
    assert Weight.of([1, 2]) == Weight(layers=(1.0, 2.0))
    weight = Weight(2.0)
    assert Weight.of(weight) is weight


def test_layers_of_a_table():
    table = layer_table("sdxl")
    assert Weight(0.5).for_layers(table) == [0.5] * 70
    eased = Weight(0.5, "ease in").for_layers(table)
    for layer, weight in zip(table, eased, strict=True):
        assert weight == pytest.approx(0.5 * (0.05 + 0.95 * (1 - layer.spatial / 11)))
    style = Weight(0.5, {6: 2.0}).for_layers(table)
    assert {w for layer, w in zip(table, style, strict=True) if layer.spatial == 6} == {1.0}
    assert {w for layer, w in zip(table, style, strict=True) if layer.spatial != 6} == {None}
    assert Weight(layers={}).for_layers(table) == [None] * 70
    assert Weight(2.0, list(range(70))).for_layers(table) == [2.0 * i for i in range(70)]


def test_diffusers_scale_dicts():
    table = layer_table("sdxl")
    scale = {"down": {"block_2": [0.0, 1.0]}, "up": {"block_0": [0.0, 0.5, 0.0]}, "mid": 0.25}
    weights = dict(zip(table, Weight.of(scale).for_layers(table), strict=True))
    for layer, weight in weights.items():
        expected = {2: 0.0, 3: 1.0, 4: 0.25, 5: 0.0, 6: 0.5, 7: 0.0}.get(layer.spatial)
        assert weight == expected, layer
    assert Weight.of({"up_blocks.0.attentions.1": 1}) == Weight.of(
        {"up_blocks.0.attentions.1": [1]}
    )


@pytest.mark.parametrize(
    "scale",
    [
        {"down": 0.5},
        {"up": {"block_0": [0.0, 1.0, 0.0]}},
        {"down": {"block_2": [0.1, 0.2], "block_1": [0.3]}, "up": {"block_1": 2.0}, "mid": [0.4]},
        {"up": [1.0, 2.0, 3.0], "mid": 1.0},
    ],
    ids=str,
)
def test_scale_dicts_mean_what_they_mean_in_diffusers(scale):
    diffusers = pytest.importorskip("diffusers")
    from diffusers.loaders.unet_loader_utils import _maybe_expand_lora_scales

    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(8, 8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 3),
        cross_attention_dim=8,
        attention_head_dim=4,
    )
    table = diffusers_layer_table(unet.config)
    (expected,) = _maybe_expand_lora_scales(unet, [scale], default_scale=0.0)
    for layer, weight in zip(table, Weight.of(scale).for_layers(table), strict=True):
        spatial = layer.name.rsplit(".transformer_blocks", 1)[0]
        assert (weight or 0.0) == expected[spatial], layer.name


def test_curve():
    weight = Weight(curve=[(0.0, 1.0), (0.5, 0.0)])
    assert [weight.factor(p) for p in (0.0, 0.25, 0.5, 0.9)] == [1.0, 0.5, 0.0, 0.0]
    assert Weight().factor(None) == 1.0
    with pytest.raises(ValueError, match="progress"):
        weight.factor(None)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (math.nan, ValueError, "finite"),
        (True, TypeError, "number"),
        (None, TypeError, "number"),
        ("easy", ValueError, "no preset is called 'easy'"),
        ({1: 1.0, "up": 2.0}, TypeError, "all numbers t or all names"),
        ({1: "x"}, TypeError, "number"),
        ("3:1:2", ValueError, "'3:1:2'"),
        ([1.0, math.inf], ValueError, "finite"),
        (torch.ones(2, 2), ValueError, r"\(2, 2\)"),
        (np.ones(16), TypeError, r"weight: expected a number, got array\("),
        ({"mid": torch.ones(2)}, TypeError, r"weight: expected a number, got tensor\("),
    ],
)
def test_refuses_other_forms(value, error, message):
    with pytest.raises(error, match=message):
        Weight.of(value)


def test_refuses_what_the_table_has_not():
    table = layer_table("sd1")
    with pytest.raises(ValueError, match="t = 16"):
        Weight.of({16: 1.0}).for_layers(table)
    with pytest.raises(ValueError, match="16 layers, got 2"):
        Weight.of([1.0, 2.0]).for_layers(table)
    with pytest.raises(ValueError, match=r"'down\.block_3' names no part"):
        Weight.of({"down": {"block_3": 1.0}}).for_layers(table)
    with pytest.raises(ValueError, match="order of progress"):
        Weight(curve=[(0.5, 1.0), (0.0, 1.0)])
