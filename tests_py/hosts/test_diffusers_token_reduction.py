# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Fewer tokens in UNets of diffusers, beside a processor that computes the specification."""

import copy
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from diffusers_models import is_original, make_prompt, make_unet, unet_inputs
from side_by_side import assert_undisturbed
from torch import nn

from attnpatch import (
    HyperTile,
    NearSightedAttention,
    NearSightedTile,
    PatchStack,
    PerturbedAttentionGuidance,
    SelfAttentionGuidance,
    SlothfulAttention,
    TokenMerging,
    attach,
    patch_model,
)
from attnpatch._core import tile_offset, tile_shape
from attnpatch.engine import Call, Site
from attnpatch.hosts.diffusers import read_layer_table
from attnpatch.patches import AttentionRecord, CallRecord

sys.path.insert(0, str(Path(__file__).parents[1] / "patches" / "token_reduction"))
import reduction_spec as spec

WIDTH = 16  # of the UNets' first level
SLOTHFUL = SlothfulAttention(in_depth_decay=1, out_k_blend=0.5, out_mode="2D_MAX")
TILE = NearSightedTile(tile_size=16, seed=3)
BOTH = NearSightedAttention(base_tile_size=16, peak_tile_size=18, in_v_blend=0.4, out_mode="1D_AVG")
PATCHES = pytest.mark.parametrize("patch", [SLOTHFUL, TILE, BOTH], ids=lambda p: p.type_name)
SIZES = [(18, 20), (23, 17)]


class SpecProcessor:
    """Computes a patch's self-attention in float64, query by query list of keys."""

    def __init__(self, patch, where, factor=1.0):
        self.patch, self.where, self.factor = patch, where, factor

    def __call__(self, attn, hidden_states, *_, **__):
        weights = [layer.weight for layer in (attn.to_q, attn.to_k, attn.to_v)]
        out = spec.attention(self.patch, self.where, hidden_states, weights, attn.heads)
        return attn.to_out[0](self.factor * out.to(hidden_states.dtype))


def where_of(patch, layer, latent, timestep, first):
    grid = spec_grid(layer, latent)
    size = getattr(patch, "tile_size", None)
    if isinstance(patch, NearSightedAttention):
        time = spec.ratio(patch, timestep)
        size = round(spec.lerp(patch.base_tile_size, patch.peak_tile_size, time))
    offset = (0, 0)
    if size is not None:
        tile = tile_shape(grid, size)
        offset = tile_offset(grid, tile, patch.seed, float(timestep), layer.index)
    depth = layer.channels // WIDTH
    return spec.Where(layer.block, depth, first / depth, grid, timestep, offset)


def spec_grid(layer, latent):
    for _ in range(layer.level):
        latent = tuple((n + 1) // 2 for n in latent)
    return latent


def specified(unet, patch, latent, timestep=500, factor=1.0):
    """Return a copy of a UNet whose self-attention computes the patch's specification."""
    twin = copy.deepcopy(unet)
    table = read_layer_table(twin)
    first = min(layer.channels for layer in table) // WIDTH
    for layer in table:
        where = where_of(patch, layer, latent, timestep, first)
        module = twin.get_submodule(layer.name).attn1
        module.set_processor(SpecProcessor(patch, where, factor))
    return twin


def run(unet, inputs, **changes):
    with torch.no_grad():
        return unet(**(inputs | changes)).sample


def check(found, expected, plain=None):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    if plain is not None:
        assert (found - plain).abs().max() > 1e-3 * plain.std(), "the patch does nothing"


@PATCHES
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_the_specification(patch, size):
    unet = make_unet("sd1")
    inputs = unet_inputs(unet, size=size)
    plain, expected = run(unet, inputs), run(specified(unet, patch, size), inputs)
    with attach(unet, patch) as attached:
        assert attached.report.matched
        check(run(unet, inputs), expected, plain)
        other = run(unet, inputs, timestep=torch.tensor(90))
        assert torch.equal(run(unet, inputs), run(unet, inputs))
    assert is_original(unet)
    assert torch.equal(run(unet, inputs), plain)
    if size == SIZES[0]:
        expected = specified(unet, patch, size, timestep=90)
        check(other, run(expected, inputs, timestep=torch.tensor(90)))


@PATCHES
def test_an_attention_backend_that_the_user_chose_serves(patch):
    unet = make_unet("sd1")
    inputs = unet_inputs(unet, size=SIZES[0])
    with attach(unet, patch):
        expected = run(unet, inputs)
        unet.set_attention_backend("_native_math")
        with mock.patch(
            "diffusers.models.attention_dispatch.dispatch_attention_fn", autospec=True
        ) as dispatch:
            dispatch.side_effect = lambda q, k, v, **_: F.scaled_dot_product_attention(
                *(x.transpose(1, 2) for x in (q, k, v))
            ).transpose(1, 2)
            check(run(unet, inputs), expected)
        assert dispatch.call_count >= 5, "each layer of the first level"


def test_equals_the_specification_in_sdxl():
    unet = make_unet("sdxl", transformer_layers_per_block=(1, 1, 2))
    size = (34, 37)  # 17 × 19 tokens at the first attention
    inputs = unet_inputs(unet, size=size)
    patched = patch_model(unet, BOTH)
    check(run(patched, inputs), run(specified(unet, BOTH, size), inputs), run(unet, inputs))


@PATCHES
def test_beside_image_prompts_and_lora(patch):
    unet = make_unet("sd1")
    inputs = unet_inputs(unet, size=SIZES[1])

    class LowRank(nn.Linear):
        def forward(self, x):
            return super().forward(x) + x @ self.down.T @ self.up.T

    merged = copy.deepcopy(unet)
    for layer in read_layer_table(unet):
        for name in ("to_k", "to_v"):
            module = unet.get_submodule(layer.name).attn1.get_submodule(name)
            module.down = 0.2 * torch.randn(2, module.in_features)
            module.up = torch.randn(module.out_features, 2)
            module.__class__ = LowRank
            with torch.no_grad():
                twin = merged.get_submodule(layer.name).attn1.get_submodule(name)
                twin.weight += module.up @ module.down
    prompt = make_prompt(unet)
    expected = patch_model(specified(merged, patch, SIZES[1]), prompt, cond_or_uncond=(1, 0))
    found = patch_model(unet, [patch, prompt], cond_or_uncond=(1, 0))
    assert is_original(unet)
    check(run(found, inputs), run(expected, inputs))


class Half:
    """A foreign processor: attention, halved."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, *_, **__):
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(source), attn.to_v(source)
        q, k, v = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return attn.to_out[0](0.5 * out)


@PATCHES
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_beside_a_foreign_processor(patch, after):
    unet = make_unet("sd1")
    inputs = unet_inputs(unet, size=SIZES[1])
    expected = run(specified(unet, patch, SIZES[1], factor=0.5), inputs)

    def replace():
        for layer in read_layer_table(unet):
            unet.get_submodule(layer.name).attn1.set_processor(Half())

    if not after:
        replace()
    with attach(unet, patch):
        if after:
            replace()
        check(run(unet, inputs), expected)


class Merged(nn.Module):
    """Another pack's token merging: attention of the first half of all tokens."""

    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def forward(self, hidden_states, **options):
        few = hidden_states[:, ::2]
        return self.attention(few, **options).repeat_interleave(2, 1)[:, : hidden_states.shape[1]]


@PATCHES
def test_tokens_that_others_merged_are_left_alone(patch):
    unet = make_unet("sd1")
    inputs = unet_inputs(unet, size=(32, 24))
    attention = [unet.get_submodule(layer.name) for layer in read_layer_table(unet)]
    originals = [block.attn1 for block in attention]
    with attach(unet, patch):
        for block in attention:
            block.attn1 = Merged(block.attn1)
        found = run(unet, inputs)
        for block, original in zip(attention, originals, strict=True):
            block.attn1 = original
    for block in attention:
        block.attn1 = Merged(block.attn1)
    assert torch.equal(found, run(unet, inputs))


@pytest.mark.parametrize(
    "guidance", [PerturbedAttentionGuidance(blocks="m0"), SelfAttentionGuidance()], ids=repr
)
def test_guidance_that_needs_all_tokens_keeps_its_layer_whole(guidance):
    table = read_layer_table(make_unet("sd1"))
    patch = NearSightedAttention(in_depth_decay=0, out_depth_decay=0, time_decay=0)
    middle = table.find("middle", 0, 0)
    for stack, reduces in (([patch], True), ([patch, guidance], False)):
        run = PatchStack(stack).bind(table)
        found = {layer.index: run.at(Site.over_image(layer, call_of(stack))) for layer in table}
        assert found.pop(middle.index).reduces == reduces
        assert all(stage.reduces for stage in found.values())


def call_of(stack):
    """A call in which the last patch of a stack has its degraded pass, or its record."""
    return Call(
        latent=(32, 32),
        batch=2,
        chunks=(1, 1),
        progress=0.5,
        degraded=(-1, len(stack) - 1),
        record=CallRecord(AttentionRecord()),
    )


def test_relatives_act_and_leave():
    unet = make_unet("sd1")
    inputs = unet_inputs(unet, size=(23, 37))
    plain = run(unet, inputs)
    for patch in (TokenMerging(max_depth=2), HyperTile(tile_size=64, max_depth=1)):
        with attach(unet, patch):
            found = run(unet, inputs)
            assert torch.equal(found, run(unet, inputs))
            assert (found - plain).abs().max() > 1e-3 * plain.std()
        assert torch.equal(run(unet, inputs), plain)


def test_last_of_the_stack_acts():
    unet = make_unet("sd1")
    inputs = unet_inputs(unet, size=(32, 24))
    with attach(unet, [SLOTHFUL, HyperTile()]), attach(unet, BOTH):
        found = run(unet, inputs)
    with attach(unet, [SLOTHFUL, BOTH]):
        assert torch.equal(run(unet, inputs), found)


def test_two_models_in_two_threads_and_a_cancelled_run():
    unet = make_unet("sd1")
    patches = [(BOTH, 800), (TILE, 200), (SLOTHFUL, 500), (TokenMerging(max_depth=2), 300)]
    jobs = [(patch_model(unet, patch), timestep) for patch, timestep in patches]
    sizes = [(32, 24), (19, 33)]

    def call(index, size):
        model, timestep = jobs[index]
        inputs = unet_inputs(unet, size=size, seed=index)
        return run(model, inputs, timestep=torch.tensor(timestep))

    assert_undisturbed(call, len(jobs), sizes, jobs[0][0].mid_block, rounds=3)
