# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Small UNets of diffusers and adapters for them, under the names that training gives."""

import torch
from diffusers import UNet2DConditionModel
from fake_adapters import Maker

CONTEXT = 24
CROSS_DOWN, CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
SHAPES = {
    "sd1": {
        "down_block_types": (CROSS_DOWN,) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + (CROSS_UP,) * 3,
        "block_out_channels": (8, 16, 24, 24),
        "layers_per_block": 2,
    },
    "sdxl": {
        "down_block_types": ("DownBlock2D", CROSS_DOWN, CROSS_DOWN),
        "up_block_types": (CROSS_UP, CROSS_UP, "UpBlock2D"),
        "block_out_channels": (8, 16, 24),
        "layers_per_block": 2,
        "transformer_layers_per_block": (1, 2, 11),
    },
    "uneven": {
        "down_block_types": (CROSS_DOWN, "DownBlock2D", CROSS_DOWN),
        "up_block_types": (CROSS_UP, "UpBlock2D", CROSS_UP),
        "block_out_channels": (8, 16, 24),
        "layers_per_block": (1, 2, 3),
        "transformer_layers_per_block": (3, 1, 1),
    },
    "without a middle": {
        "down_block_types": (CROSS_DOWN, CROSS_DOWN),
        "up_block_types": (CROSS_UP, CROSS_UP),
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "mid_block_type": None,
    },
}


def make_unet(shape, **changes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet2DConditionModel(
            sample_size=8,
            norm_num_groups=4,
            attention_head_dim=4,
            cross_attention_dim=CONTEXT,
            **SHAPES[shape],
            **changes,
        )


def cross_layers(unet):
    """Names of the transformer blocks in the order in which the UNet lists its processors."""
    names = [name.removesuffix(".processor") for name in unet.attn_processors]
    return [name.removesuffix(".attn2") for name in names if name.endswith(".attn2")]


def make_state(unet, projection=None, seed=0, lora=False):
    """Give a published state dict of an adapter for a UNet."""
    maker = Maker(seed)
    channels = [unet.get_submodule(name).attn2.inner_dim for name in cross_layers(unet)]
    layers = maker.sites(channels, CONTEXT)
    for number, name in enumerate(unet.attn_processors if lora else ()):
        attention = unet.get_submodule(name.removesuffix(".processor"))
        for part in ("q", "k", "v", "out"):
            linear = attention.to_out[0] if part == "out" else getattr(attention, f"to_{part}")
            prefix = f"{number}.to_{part}_lora"
            layers[f"{prefix}.down.weight"] = maker.randn(2, linear.in_features)
            layers[f"{prefix}.up.weight"] = maker.randn(linear.out_features, 2)
    projection = maker.image_projection(20, CONTEXT) if projection is None else projection
    return {"image_proj": projection, "ip_adapter": layers}


def name_layers(unet, layers, pattern="{layer}.attn{attention}.processor.{name}"):
    """Rename numbered layers as the UNet does."""
    blocks = cross_layers(unet)
    renamed = {}
    for key, tensor in layers.items():
        number, _, name = key.partition(".")
        block, attention = blocks[int(number) // 2], int(number) % 2 + 1
        renamed[pattern.format(layer=block, attention=attention, name=name)] = tensor
    return renamed


def trained(unet, state):
    """What accelerate saves as safetensors: shared tensors under the UNet's names, UNet and all."""
    projection = {f"image_proj_model.{name}": t for name, t in state["image_proj"].items()}
    frozen = {f"unet.{name}": t for name, t in unet.state_dict().items()}
    layers = {f"unet.{name}": t for name, t in name_layers(unet, state["ip_adapter"]).items()}
    return projection | frozen | layers


def backwards(tensors):
    """The same entries in reverse, since order in a file means nothing."""
    return dict(reversed(list(tensors.items())))
