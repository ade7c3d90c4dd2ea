# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""UNets that resize their features on the way, and blocks in which others merge tokens."""

import logging

import pytest
import torch
import torch.nn.functional as F
from attach_case import original
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers_models import (
    make_adapter_state,
    make_features,
    make_prompt,
    make_unet,
    unet_inputs,
)

from attnpatch import (
    HyperTile,
    PerturbedAttentionGuidance,
    SelfAttentionGuidance,
    SlothfulAttention,
    SmoothedEnergyGuidance,
)
from attnpatch.adapters import load_image_adapter
from attnpatch.hosts import attach
from attnpatch.hosts.diffusers import read_layer_table
from attnpatch.patches import token_grid
from attnpatch.patches.masks import resize_mask

SHRINKS = [
    ((16, 16), 0, 0.5),
    ((18, 28), 0, 0.5),
    ((23, 37), 1, 0.6),
    ((40, 26), 0, 0.71),
    ((31, 20), 0, 0.85),
    ((20, 34), 1, 1.5),
]


def shrink(unet, at, scale):
    """Let a UNet resize its features behind a block, and back where the skips are larger.

    Returns what removes the first part of it.
    """

    def resize(states, size):
        return F.interpolate(states, size=size, mode="bicubic")

    def behind(_, args, kwargs, output):
        states, skips = output
        size = [int(side * scale) for side in states.shape[-2:]]
        return resize(states, size), skips

    def before(_, args, kwargs):
        skips = kwargs["res_hidden_states_tuple"]
        size = skips[0].shape[-2:]
        kwargs["res_hidden_states_tuple"] = tuple(resize(skip, size) for skip in skips)
        kwargs["hidden_states"] = resize(kwargs["hidden_states"], size)
        return args, kwargs

    for block in unet.up_blocks:
        block.register_forward_pre_hook(before, with_kwargs=True)
    return unet.down_blocks[at].register_forward_hook(behind, with_kwargs=True)


def shrinking(unet, at, scale):
    shrink(unet, at, scale)
    return unet


def true_grid(layer, latent, at, scale):
    if layer.level <= at or (layer.block == "output" and layer.level == at + 1):
        return token_grid(*latent, layer.level)
    shrunk = [int(side * scale) for side in token_grid(*latent, at + 1)]
    return token_grid(*shrunk, layer.level - at - 1)


class Masked:
    """Attention to the text, plus that to a picture under a mask on a known grid."""

    def __init__(self, tokens, k, v, weight, mask):
        self.tokens, self.k, self.v, self.weight, self.mask = tokens, k, v, weight, mask

    def __call__(self, attn, x, encoder_hidden_states, attention_mask=None):
        def heads(states):
            return states.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        base = AttnProcessor2_0()(attn, x, encoder_hidden_states)
        k, v = (heads(F.linear(self.tokens, w)) for w in (self.k, self.v))
        q = heads(attn.to_q(x))
        out = F.scaled_dot_product_attention(q, k.expand(len(x), -1, -1, -1), v)
        term = self.weight * self.mask[..., None] * out.transpose(1, 2).flatten(2)
        return base + F.linear(term, attn.to_out[0].weight)


def masked_unet(mask, latent, at, scale):
    """The UNet of `shrinking`, whose cross-attention computes the masked prompt."""
    unet = make_unet()
    state = make_adapter_state(unet, "plus", seed=0)
    weights = state["ip_adapter"]
    adapter = load_image_adapter(state)
    embeds = adapter.get_image_embeds(*make_features("plus", 1, seed=100))
    for layer in read_layer_table(unet):
        k, v = (weights[f"{2 * layer.index + 1}.to_{x}_ip.weight"] for x in "kv")
        at_grid = resize_mask(mask[None], true_grid(layer, latent, at, scale))
        processor = Masked(embeds.cond, k, v, 0.8, at_grid)
        unet.get_submodule(layer.name).attn2.set_processor(processor)
    return shrinking(unet, at, scale)


def run(unet, latent, **inputs):
    with torch.no_grad():
        return unet(**(unet_inputs(unet, size=latent) | inputs)).sample


def half_mask(latent):
    """Unlike along both sides, so that a wrong grid shows."""
    rows, columns = (torch.linspace(0, 1, 4 * side) for side in latent)
    return (rows[:, None] + 2 * columns > 1.2).float()


@pytest.mark.parametrize(("latent", "at", "scale"), SHRINKS)
def test_masks_lie_on_the_true_grid(latent, at, scale):
    mask = half_mask(latent)
    prompt = make_prompt(original(), mask=mask, weight=0.8)
    expected = run(masked_unet(mask, latent, at, scale), latent)
    unet = make_unet()
    resizing = shrink(unet, at, scale)
    plain = run(unet, latent)
    with attach(unet, prompt, cond_or_uncond=(0,)):
        found = run(unet, latent)
        resizing.remove()  # as such UNets do in later steps
        whole = run(unet, latent)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (found - plain).abs().max() > 1e-2
    with attach(original(), prompt, cond_or_uncond=(0,)):
        torch.testing.assert_close(whole, run(original(), latent), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("latent", "at", "scale"), SHRINKS[:3])
def test_recorded_attention_is_of_the_true_grid(latent, at, scale):
    unet = shrinking(make_unet(), at, scale)
    middle = read_layer_table(unet).find("middle", 0, 0)
    with attach(unet, SelfAttentionGuidance(1.0), cond_or_uncond=(0,)) as attached:
        assert torch.isfinite(run(unet, latent, timestep=torch.tensor(500))).all()
        assert attached.attention.shape[1:] == true_grid(middle, latent, at, scale)
        torch.testing.assert_close(attached.attention.mean((1, 2)), torch.ones(2))


@pytest.mark.parametrize(
    "patch",
    [
        PerturbedAttentionGuidance(3.0),
        SmoothedEnergyGuidance(3.0),
        SmoothedEnergyGuidance(3.0, blur_sigma=1.0, blocks="u0"),
        SlothfulAttention(),
        HyperTile(tile_size=32),
    ],
    ids=repr,
)
def test_other_patches_act_on_the_true_grid(patch, caplog):
    latent, at, scale = (26, 44), 0, 0.6
    unet = shrinking(make_unet(), at, scale)
    plain = run(unet, latent)
    with attach(unet, patch, cond_or_uncond=(1, 0)), caplog.at_level(logging.WARNING):
        found = run(unet, latent)
    assert torch.isfinite(found).all()
    assert not torch.equal(found, plain)
    assert not caplog.records


@pytest.mark.slow
def test_a_whole_graph_tells_the_grid_by_the_count():
    small = {
        "down_block_types": ("CrossAttnDownBlock2D",) * 2,
        "mid_block_type": None,
        "up_block_types": ("CrossAttnUpBlock2D",) * 2,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
    }
    latent = (16, 32)
    unet = shrinking(make_unet(**small), 0, 0.5)
    torch._dynamo.reset()
    compiled = torch.compile(unet, backend="eager", fullgraph=True)
    with attach(unet, make_prompt(unet, mask=half_mask(latent)), cond_or_uncond=(0,)):
        expected = run(unet, latent)
        torch.testing.assert_close(run(compiled, latent), expected)
    torch._dynamo.reset()


class Merged(torch.nn.Module):
    """Attention to, and from, every other token, as patches of other packages do it."""

    def __init__(self, attention):
        super().__init__()
        self.attention = attention
        self.is_cross_attention = attention.is_cross_attention

    def forward(self, states, *args, **options):
        few = states[:, ::2]
        out = self.attention(few, *args, **options)
        return out.repeat_interleave(2, 1)[:, : states.shape[1]]


def merged(unet, name):
    for layer in read_layer_table(unet):
        block = unet.get_submodule(layer.name)
        setattr(block, name, Merged(getattr(block, name)))


def test_merged_tokens_have_no_grid():
    latent = (16, 24)
    unet = make_unet()
    prompt = make_prompt(unet, mask=half_mask(latent))
    with attach(unet, prompt, cond_or_uncond=(0,)):
        merged(unet, "attn2")
        with pytest.raises(ValueError, match=r"mask: expected 16 × 24 tokens at down_blocks.0"):
            run(unet, latent)
    with attach(unet := make_unet(), make_prompt(unet), cond_or_uncond=(0,)):
        merged(unet, "attn2")
        assert torch.isfinite(run(unet, latent)).all()


@pytest.mark.parametrize(
    ("guidance", "works"),
    [
        (PerturbedAttentionGuidance(3.0, blocks="m0"), True),
        (SmoothedEnergyGuidance(3.0), True),
        (SmoothedEnergyGuidance(3.0, blur_sigma=1.0), False),
        (SelfAttentionGuidance(1.0), False),
    ],
    ids=repr,
)
def test_guidance_beside_merged_tokens(guidance, works):
    latent = (32, 48)
    unet = make_unet()
    plain = run(unet, latent)
    with attach(unet, guidance, cond_or_uncond=(1, 0)):
        merged(unet, "attn1")
        if works:
            assert not torch.equal(run(unet, latent), plain)
        else:
            with pytest.raises(ValueError, match=r"self-attention: expected 4 × 6 tokens at mid"):
                run(unet, latent)
