# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Every class of UNet that diffusers has: patched as is right for it, or refused by name."""

import inspect
import re

import diffusers
import pytest
import torch
import torch.nn.functional as F
from diffusers_models import make_adapter_state, make_features, storage_of
from test_diffusers_token_reduction import run as call
from test_diffusers_token_reduction_beside import specify

from attnpatch import (
    ImagePrompt,
    PerturbedAttentionGuidance,
    SlothfulAttention,
    load_image_adapter,
)
from attnpatch.hosts import attach, report
from attnpatch.hosts.diffusers import read_layer_table

SIZE, FRAMES = (18, 20), 3
CHANNELS = {"block_out_channels": (16, 32), "norm_num_groups": 4, "layers_per_block": 1}
LATENT = {"in_channels": 4, "out_channels": 4}


def blocks(suffix, cross="CrossAttn"):
    down, up = f"DownBlock{suffix}", f"UpBlock{suffix}"
    return {
        "down_block_types": (f"{cross}{down}", down),
        "up_block_types": (up, f"{cross}{up}"),
        "cross_attention_dim": 32,
    }


PLAIN = CHANNELS | LATENT | blocks("2D") | {"attention_head_dim": 2}
HEADS = {"num_attention_heads": 2, "motion_num_attention_heads": 2}
DREAM_LITE = {
    "down_block_types": (
        "DreamLiteCrossAttnNoSelfAttnDownBlock2D",
        "DreamLiteCrossAttnDownBlock2D",
    ),
    "up_block_types": ("DreamLiteCrossAttnUpBlock2D", "DreamLiteCrossAttnNoSelfAttnUpBlock2D"),
}

WORKING = {
    "UNet2DConditionModel": PLAIN,
    "UNetMotionModel": CHANNELS | LATENT | blocks("Motion") | HEADS,
    "UNet3DConditionModel": CHANNELS | LATENT | blocks("3D") | {"attention_head_dim": 4},
    "I2VGenXLUNet": CHANNELS | LATENT | blocks("3D") | {"attention_head_dim": 4},
    "DreamLiteUNetModel": PLAIN
    | DREAM_LITE
    | {
        "num_kv_heads": 2,
        "attention_head_dim": 2,
        "mid_block_type": "DreamLiteUNetMidBlock2DCrossAttn",
    },
}
REFUSED = {
    "AudioLDM2UNet2DConditionModel": PLAIN | {"cross_attention_dim": ((None, 32), (None, 32))},
    "Kandinsky3UNet": {
        "time_embedding_dim": 4,
        "groups": 2,
        "attention_head_dim": 4,
        "layers_per_block": 3,
        "block_out_channels": (32, 64),
        "cross_attention_dim": 4,
        "encoder_hid_dim": 32,
    },
    "StableCascadeUNet": {
        "in_channels": 4,
        "conditioning_dim": 16,
        "block_out_channels": (32,),
        "num_attention_heads": (4,),
        "down_num_layers_per_block": (1,),
        "up_num_layers_per_block": (1,),
        "down_blocks_repeat_mappers": (1,),
        "up_blocks_repeat_mappers": (1,),
        "block_types_per_layer": (("SDCascadeResBlock", "SDCascadeAttnBlock"),),
        "clip_text_pooled_in_channels": 16,
        "timestep_ratio_embedding_dim": 16,
    },
    "UNet1DModel": {},
    "UNet2DModel": CHANNELS
    | {"down_block_types": ("DownBlock2D",) * 2}
    | {"up_block_types": ("UpBlock2D",) * 2},
    "UNetControlNetXSModel": blocks("2D")
    | {
        "block_out_channels": (16, 32),
        "norm_num_groups": 4,
        "num_attention_heads": 2,
        "ctrl_block_out_channels": (8, 16),
        "ctrl_num_attention_heads": 2,
        "ctrl_conditioning_embedding_out_channels": (4, 8),
    },
    "UNetSpatioTemporalConditionModel": {
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "cross_attention_dim": 32,
        "num_attention_heads": (2, 4),
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 24,
    }
    | {k: v for k, v in blocks("SpatioTemporal").items() if k.endswith("types")},
    "UVit2DModel": {
        "hidden_size": 16,
        "cond_embed_dim": 16,
        "encoder_hidden_size": 16,
        "block_out_channels": 16,
        "num_res_blocks": 1,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "in_channels": 16,
        "intermediate_size": 32,
        "vocab_size": 20,
        "codebook_size": 16,
        "micro_cond_encode_dim": 2,
        "micro_cond_embed_dim": 10,
    },
    "UniDiffuserModel": {"num_layers": 1, "sample_size": 4, "patch_size": 2}
    | {"in_channels": 4, "out_channels": 4, "text_dim": 16, "clip_img_dim": 16}
    | {"num_text_tokens": 7, "num_attention_heads": 2, "attention_head_dim": 8},
}


def make(name, options):
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    unet = getattr(diffusers, name)(**options).eval().requires_grad_(False)
    for module in unet.modules():
        # Some last layers are made as zeros, and would show nothing.
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d) and not module.weight.any():
            torch.nn.init.normal_(module.weight, std=0.05)
    torch.random.set_rng_state(state)
    return unet


def unet_classes():
    names = re.compile("U-?Net|UVit|UniDiffuserModel", re.IGNORECASE)
    return {
        name
        for name in dir(diffusers)
        if names.search(name)
        and inspect.isclass(kind := getattr(diffusers, name))
        and issubclass(kind, torch.nn.Module)
    }


def test_each_class_has_a_verdict():
    assert unet_classes() == set(WORKING) | set(REFUSED)


@pytest.mark.parametrize("name", REFUSED)
def test_other_structures_are_refused_by_name(name):
    unet = make(name, REFUSED[name])
    before = dict(unet.__dict__), [dict(m._forward_hooks) for m in unet.modules()]
    for act in (lambda: attach(unet, SlothfulAttention()), lambda: report(unet)):
        with pytest.raises(TypeError, match=rf"model: expected .* got .*\b{name}\b"):
            act()
    assert before == (unet.__dict__, [dict(m._forward_hooks) for m in unet.modules()])


VARIANTS = {
    "SimpleCrossAttn": blocks("2D", "SimpleCrossAttn")
    | {"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"},
    "simple middle": {"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"},
    "two contexts": {"dual_cross_attention": True},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_other_blocks_are_refused(name):
    unet = make("UNet2DConditionModel", PLAIN | VARIANTS[name])
    with pytest.raises(TypeError, match="got UNet2DConditionModel with attention to a context at"):
        attach(unet, SlothfulAttention())


def test_grouped_heads_are_refused():
    unet = make(
        "DreamLiteUNetModel",
        PLAIN
        | DREAM_LITE
        | {"num_kv_heads": 1, "mid_block_type": "DreamLiteUNetMidBlock2DCrossAttn"},
    )
    with pytest.raises(TypeError, match="got DreamLiteUNetModel with fewer heads for keys"):
        attach(unet, SlothfulAttention())


def inputs_of(unet, rows=2):
    generator = torch.Generator().manual_seed(1)

    def noise(*shape):
        return torch.randn(*shape, generator=generator)

    video = not isinstance(unet, diffusers.UNet2DConditionModel)
    inputs = {
        "sample": noise(rows, 4, FRAMES, *SIZE) if video else noise(rows, 4, *SIZE),
        "timestep": torch.tensor(400),
        "encoder_hidden_states": noise(rows, 7, 32),
    }
    if isinstance(unet, diffusers.UNetMotionModel):
        inputs["encoder_hidden_states"] = inputs["encoder_hidden_states"].repeat_interleave(
            FRAMES, 0
        )
    if isinstance(unet, diffusers.I2VGenXLUNet):
        inputs |= {
            "fps": torch.tensor([8] * rows),
            "image_latents": noise(rows, 4, FRAMES, *SIZE),
            "image_embeddings": noise(rows, 32),
        }
    return inputs


class WithPicture:
    """What another processor computes, plus attention to the picture's tokens of each row."""

    def __init__(self, base, tokens, k, v, weight):
        self.base, self.tokens, self.k, self.v, self.weight = base, tokens, k, v, weight

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **options):
        base = self.base(attn, hidden_states, encoder_hidden_states, **options)
        # Half of the rows are uncond, the frames of a video one after the other.
        tokens = self.tokens.repeat_interleave(len(hidden_states) // 2, 0)

        def heads(states, norm):
            split = states.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            return split if norm is None else norm(split)

        q = heads(attn.to_q(hidden_states), attn.norm_q)
        k, v = (heads(F.linear(tokens, w), None) for w in (self.k, self.v))
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return base + F.linear(self.weight * out, attn.to_out[0].weight)


def with_picture(unet, state, embeds, weight):
    tokens = torch.cat([embeds.uncond, embeds.cond])
    for layer in read_layer_table(unet):
        k, v = (state["ip_adapter"][f"{2 * layer.index + 1}.to_{x}_ip.weight"] for x in "kv")
        attn = unet.get_submodule(layer.name).attn2
        attn.set_processor(WithPicture(attn.processor, tokens, k, v, weight))


def adapter_state(unet):
    """An adapter for the layers of the table."""
    state = make_adapter_state(make("UNet2DConditionModel", PLAIN), "plus")
    generator = torch.Generator().manual_seed(4)
    state["ip_adapter"] = {
        f"{2 * layer.index + 1}.to_{x}_ip.weight": 0.3
        * torch.randn(layer.channels, 32, generator=generator)
        for layer in read_layer_table(unet)
        for x in "kv"
    }
    return state


@pytest.mark.parametrize("name", WORKING)
def test_a_picture_reaches_its_rows(name):
    unet, expected = (make(name, WORKING[name]) for _ in range(2))
    inputs = inputs_of(unet)
    state = adapter_state(unet)
    adapter = load_image_adapter(state)
    embeds = adapter.get_image_embeds(*make_features("plus", 1))
    with_picture(expected, state, embeds, 0.8)
    plain = call(unet, inputs)
    with attach(unet, ImagePrompt(adapter, embeds, 0.8), cond_or_uncond=(1, 0)) as attached:
        assert attached.report.matched == tuple(read_layer_table(unet))
        found = call(unet, inputs)
    torch.testing.assert_close(found, call(expected, inputs), rtol=1e-4, atol=1e-4)
    assert (found - plain).abs().max() > 1e-3
    assert torch.equal(call(unet, inputs), plain)


def test_a_picture_for_each_frame_is_that_in_every_video():
    unet = make("UNetMotionModel", WORKING["UNetMotionModel"])
    adapter = load_image_adapter(adapter_state(unet))

    def prompt(pictures):
        features = make_features("plus", pictures)
        return ImagePrompt(adapter, adapter.get_image_embeds(*features, combine="batch"), 0.8)

    inputs = inputs_of(unet, rows=4)  # two videos
    frames = inputs["encoder_hidden_states"].unflatten(0, (4, FRAMES))
    with attach(unet, prompt(FRAMES), cond_or_uncond=(1, 0)):
        both = call(unet, inputs)
        for video in range(2):
            rows = slice(video, None, 2)
            text = frames[rows].flatten(0, 1)
            alone = inputs | {"sample": inputs["sample"][rows], "encoder_hidden_states": text}
            torch.testing.assert_close(both[rows], call(unet, alone), rtol=1e-4, atol=1e-4)
    with attach(unet, prompt(2), cond_or_uncond=(1, 0)):  # a picture for each video
        call(unet, inputs)
    several = prompt(2 * FRAMES).replace(weight=0.5)
    with attach(unet, several, cond_or_uncond=(1, 0)):
        call(unet, inputs)
    message = r"expected 1 picture, or 6: one for each image .* got 4 for 6 cond and 6 uncond rows"
    refused = pytest.raises(ValueError, match=message)
    with attach(unet, prompt(4), cond_or_uncond=(1, 0)), refused:
        call(unet, inputs)


# DreamLite normalises its queries, which the specification does not.
@pytest.mark.parametrize("name", sorted(set(WORKING) - {"DreamLiteUNetModel"}))
def test_self_attention_of_each_frame_is_reduced(name):
    unet, expected = (make(name, WORKING[name]) for _ in range(2))
    inputs = inputs_of(unet)
    patch = SlothfulAttention(in_slothful=3.0, in_depth_decay=0.0)
    specify(expected, patch)
    plain = call(unet, inputs)
    with attach(unet, patch):
        found = call(unet, inputs)
    torch.testing.assert_close(found, call(expected, inputs), rtol=1e-4, atol=1e-4)
    assert (found - plain).abs().max() > 1e-3


def without_self_attention(**changes):
    options = PLAIN | {"only_cross_attention": (True, False)} | changes
    return make("UNet2DConditionModel", options)


def test_layers_without_self_attention_are_not_reported():
    unet = without_self_attention()
    storage = storage_of(unet)
    table = read_layer_table(unet)
    lacking = {layer for layer, heads in zip(table, table.heads, strict=True) if not heads}
    assert lacking == {layer for layer in table if layer.level == 0}
    guidance = PerturbedAttentionGuidance(2.0, blocks="d0,m0")
    with attach(unet, guidance, cond_or_uncond=(1, 0)) as attached:
        found = attached.report
        assert found == report(unet)
    assert found.matched == (table.find("middle", 0, 0),)
    skipped = {skip.layer: skip.reason for skip in found.skipped}
    assert skipped[table.find("input", 1, 0)] == "this UNet has no self-attention there"
    assert set(found.matched) | set(skipped) == set(table)
    with pytest.raises(ValueError, match="expected self-attention where PerturbedAttentionGuid"):
        attach(unet, PerturbedAttentionGuidance(2.0, blocks="d0"))
    assert storage_of(unet) == storage


def test_a_unet_without_any_self_attention():
    unet = without_self_attention(
        only_cross_attention=True, mid_block_only_cross_attention=True, mid_block_type=None
    )
    assert not any(read_layer_table(unet).heads)
    with pytest.raises(ValueError, match="model: expected self-attention where SlothfulAttention"):
        attach(unet, SlothfulAttention())


def test_blocks_without_attn1_take_what_is_for_the_others():
    unet = make("DreamLiteUNetModel", WORKING["DreamLiteUNetModel"])
    inputs = inputs_of(unet)
    plain = call(unet, inputs)
    table = read_layer_table(unet)
    with attach(unet, SlothfulAttention(in_slothful=3.0, in_depth_decay=0.0)) as attached:
        found = call(unet, inputs)
        blocks = [unet.get_submodule(layer.name) for layer in attached.report.matched]
    assert blocks and all(block.attn1 is not None for block in blocks)
    assert len(blocks) < len(table)
    assert (found - plain).abs().max() > 1e-4
