# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnpatch.engine import (
    Layer,
    LayerTable,
    diffusers_layer_table,
    layer_table,
    make_layer_table,
    token_grid,
)

SDXL = {
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": [1, 2, 10],
}
SD1 = {
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_table_is_a_value(family):
    table = layer_table(family)
    again = pickle.loads(pickle.dumps(table))
    assert again == table and hash(again) == hash(table) and again.heads == table.heads
    assert copy.deepcopy(table) is table and copy.copy(table) is table
    assert LayerTable(list(table)) == table
    assert table != layer_table("sdxl" if family != "sdxl" else "sd1")
    assert tuple(layer.channels for layer in table) == table.channels


def test_heads():
    table = make_layer_table(input=[(8, [1])], middle=None, output=[(8, [1, 0])])
    assert table.heads == () and pickle.loads(pickle.dumps(table)).heads == ()
    told = table.with_heads([2, 4])
    assert told.heads == (2, 4) and told == table and table.heads == ()
    with pytest.raises(ValueError, match="heads: expected one number for each of 2 layers, got 1"):
        table.with_heads([2])
    assert table.with_heads([2, 0]).heads == (2, 0)  # no self-attention there
    with pytest.raises(ValueError, match="heads: expected at least 0, got -1"):
        table.with_heads([2, -1])


def test_layer_is_a_value():
    layer = layer_table("sdxl")[-1]
    assert layer.block == "middle" and layer.transformer == 9
    assert eval(repr(layer), {"Layer": Layer}) == layer
    assert pickle.loads(pickle.dumps(layer)) == layer
    assert len({layer, copy.deepcopy(layer), layer_table("sdxl")[-2]}) == 2
    with pytest.raises(AttributeError):
        layer.channels = 1


def test_lookups():
    table = layer_table("sdxl")
    layer = table.find("output", 1, 3)
    assert table.by_name(layer.name + ".attn2.processor") == layer
    assert table.find("middle", 1, 0) is None and table.by_name("conv_in") is None
    with pytest.raises(ValueError, match="block"):
        table.find("mid", 0)
    with pytest.raises(IndexError):
        table[70]


def test_diffusers_configs():
    assert diffusers_layer_table(SDXL) == layer_table("sdxl")
    assert diffusers_layer_table(SD1) == layer_table("sd1")


def test_diffusers_config_with_depths_of_its_own():
    """As SSD-1B has it: depths by layer, other ones on the way up, no attention in the middle."""
    config = {
        **SDXL,
        "mid_block_type": "UNetMidBlock2D",
        "transformer_layers_per_block": [1, [2, 2], [4, 4]],
        "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
    }
    assert diffusers_layer_table(config) == make_layer_table(
        input=[(320, [0, 0]), (640, [2, 2]), (1280, [4, 4])],
        middle=None,
        output=[(1280, [4, 4, 10]), (640, [2, 1, 1]), (320, [0, 0, 0])],
    )


@pytest.mark.parametrize("config", [SDXL, {**SD1, "block_out_channels": (32, 64, 96, 96)}])
def test_names_are_those_of_diffusers(config):
    diffusers = pytest.importorskip("diffusers")
    scale = max(1, min(config["block_out_channels"]) // 32)
    small = {**config, "block_out_channels": [c // scale for c in config["block_out_channels"]]}
    unet = diffusers.UNet2DConditionModel(**small, cross_attention_dim=8, attention_head_dim=8)
    table = diffusers_layer_table(unet.config)
    names = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    assert [table.by_name(name).index for name in names] == list(range(len(table)))
    modules = dict(unet.named_modules())
    for name in names:
        width = modules[name.removesuffix(".processor")].to_q.out_features
        assert table.by_name(name).channels == width


@given(st.integers(1, 600), st.integers(1, 600), st.integers(0, 5))
def test_token_grid_halves_rounding_up(height, width, level):
    assert token_grid(height, width, level) == (-(-height // 2**level), -(-width // 2**level))
