# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The table of layers that is read off a UNet's modules."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers_models import SD1, SDXL, make_unet

from attnpatch.engine import diffusers_layer_table, layer_table
from attnpatch.hosts.diffusers import read_layer_table


def full_size(structure, **changes):
    """A UNet of full size without any memory behind its weights."""
    with torch.device("meta"):
        return UNet2DConditionModel(**(structure | changes))


def test_sd1_and_sd2_are_the_known_table():
    wide = {"block_out_channels": (320, 640, 1280, 1280)}
    sd1 = full_size(SD1, **wide, cross_attention_dim=768, attention_head_dim=8)
    assert read_layer_table(sd1) == layer_table("sd1")
    heads = {"attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
    sd2 = full_size(SD1, **wide, cross_attention_dim=1024, **heads)
    assert read_layer_table(sd2) == layer_table("sd2")


def test_sdxl_is_the_known_table():
    sdxl = full_size(
        SDXL,
        block_out_channels=(320, 640, 1280),
        cross_attention_dim=2048,
        attention_head_dim=(5, 10, 20),
        use_linear_projection=True,
    )
    assert read_layer_table(sdxl) == layer_table("sdxl")


CASES = [
    ("sd1", {}),
    ("sdxl", {}),
    # The demo's: attention at the lower levels only, one layer a block.
    (
        "sd1",
        {
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "block_out_channels": (16, 32, 48),
            "layers_per_block": 1,
        },
    ),
    # SSD-1B and others have depths that differ inside a block and between down and up.
    (
        "sdxl",
        {
            "transformer_layers_per_block": ((0, 0), (2, 2), (4, 4)),
            "reverse_transformer_layers_per_block": ((4, 4, 10), (2, 1, 1), (0, 0, 0)),
        },
    ),
    ("sdxl", {"mid_block_type": None}),
    ("sd1", {"mid_block_type": "UNetMidBlock2D"}),
    # Blocks that attend to themselves alone have no layers for us.
    ("sd1", {"down_block_types": (*SD1["down_block_types"][:3], "AttnDownBlock2D")}),
]


@pytest.mark.parametrize(("structure", "changes"), CASES)
def test_the_tree_and_the_config_tell_the_same(structure, changes):
    unet = make_unet(structure, **changes)
    table = read_layer_table(unet)
    assert table == diffusers_layer_table(unet.config)
    # The order is that of diffusers' own loader of IP-Adapters.
    names = [n for n in unet.attn_processors if n.endswith("attn2.processor")]
    assert [f"{layer.name}.attn2.processor" for layer in table] == names


def test_a_unet_without_cross_attention_is_refused():
    unet = make_unet(
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        mid_block_type=None,
        block_out_channels=(16, 32),
    )
    with pytest.raises(ValueError, match="none of its UNet's layers attends to a context"):
        read_layer_table(unet)
