# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Fewer tokens in a small ComfyUI, beside self-attention that computes the specification."""

import copy
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from protocol_host import SD1, make_inputs
from protocol_sampling import make_comfy
from protocol_unet import SpatialTransformer, UNet, optimized_attention
from side_by_side import assert_undisturbed
from test_diffusers_token_reduction import BOTH, SLOTHFUL, TILE, where_of

from attnpatch import HyperTile, PatchStack, TokenMerging, patch_model, report
from attnpatch.engine import Call, Site, layer_table, token_grid
from attnpatch.hosts.comfyui.unet.layers import read_layer_table

sys.path.insert(0, str(Path(__file__).parents[1] / "patches" / "token_reduction"))
import reduction_spec as spec

PATCHES = pytest.mark.parametrize("patch", [SLOTHFUL, TILE, BOTH], ids=lambda p: p.type_name)
SIZE = (21, 18)
TIMESTEP = 500
LAYERS = layer_table("sd1")


@pytest.fixture(scope="module")
def host():
    return make_comfy(SD1, 16)


def run(model, size=SIZE, chunks=(1, 0), timestep=TIMESTEP, seed=0):
    x, contexts = make_inputs(SD1, size=size, seed=seed)
    sigma = float(model.model.model_sampling.sigma(float(timestep)))
    return model.apply(x, sigma, contexts, list(chunks))


def specified(host, patch, scale=1.0):
    """A copy of the host whose self-attention computes the patch's specification."""
    twin = copy.deepcopy(host)
    unet = twin.model.diffusion_model
    parts = {"input": unet.input_blocks, "output": unet.output_blocks}
    for layer in read_layer_table(unet):
        block = unet.middle_block if layer.block == "middle" else parts[layer.block][layer.number]
        (spatial,) = (module for module in block if hasattr(module, "transformer_blocks"))
        attn = spatial.transformer_blocks[layer.transformer].attn1
        where = where_of(patch, layer, SIZE, TIMESTEP, 1)

        def forward(x, *_, attn=attn, where=where):
            weights = [attn.to_q.weight, scale * attn.to_k.weight, attn.to_v.weight]
            return attn.to_out(spec.attention(patch, where, x, weights, attn.heads).to(x.dtype))

        attn.forward = forward
    return twin


def check(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@PATCHES
def test_equals_the_specification(host, patch):
    plain, expected = run(host), run(specified(host, patch))
    patched = patch_model(host, patch)
    assert report(patched).matched
    check(run(patched), expected)
    assert (run(patched) - plain).abs().max() > 1e-3 * plain.std(), "the patch does nothing"
    swapped = run(patched, chunks=(0, 1))
    check(swapped, expected.roll(len(expected) // 2, 0))
    check(run(patched, chunks=(0,)), swapped[: len(swapped) // 2])
    assert torch.equal(run(host), plain)


def stretch(n, context, value, options):
    return n, 2 * context, value


@PATCHES
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_foreign_input_patch(host, patch, after):
    model = host if after else host.clone()
    if not after:
        model.set_model_patch(stretch, "attn1_patch")
    model = patch_model(model, patch)
    if after:
        model.set_model_patch(stretch, "attn1_patch")
    check(run(model), run(specified(host, patch, scale=2.0)))


def merge(n, context, value, options):
    """Another pack's merging of queries, keys and values, parted after the output."""
    return n[:, ::2], context[:, ::2], value[:, ::2]


def grid_tokens(options):
    layer = LAYERS.find(*options["block"])
    return math.prod(token_grid(*options["original_shape"][-2:], layer.level))


def part(n, options):
    return n.repeat_interleave(2, 1)[:, : grid_tokens(options)]


def add_merging(model, merge=merge, part=part):
    model = model.clone()
    model.set_model_patch(merge, "attn1_patch")
    model.set_model_patch(part, "attn1_output_patch")
    return model


@PATCHES
@pytest.mark.parametrize("tells", [True, False], ids=["told", "not told"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_merged_tokens_are_left_alone_with_one_warning(
    host, patch, after, tells, monkeypatch, caplog
):
    """Whether the host tells the features' shape or not: merged tokens fill no grid."""
    monkeypatch.setattr(SpatialTransformer, "tells_shape", tells)
    merged = add_merging(host)
    model = add_merging(patch_model(host, patch)) if after else patch_model(merged, patch)
    assert torch.equal(run(model), run(merged))
    run(model, size=(24, 32), timestep=200)
    assert torch.equal(run(model), run(merged))
    (warning,) = caplog.records
    assert type(patch).__name__ in warning.message
    assert "another patch has merged" in warning.message
    caplog.clear()
    run(patch_model(host, patch))
    assert not caplog.records


def merge_queries(n, context, value, options):
    """As the host's own node for token merging does."""
    return n[:, ::2], context, value


def cut(n, context, value, options):
    """As packs that tile pictures do: the batch grows."""
    tokens = n.shape[1] - n.shape[1] % 2
    n, context, value = (
        x[:, :tokens].unflatten(1, (2, -1)).flatten(0, 1) for x in (n, context, value)
    )
    return n, context, value


def join(n, options):
    n = n.unflatten(0, (-1, 2)).flatten(1, 2)
    return torch.nn.functional.pad(n, (0, 0, 0, grid_tokens(options) - n.shape[1]))


@PATCHES
@pytest.mark.parametrize("way", [(merge_queries, part), (cut, join)], ids=["merge", "cut"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_what_others_merge_or_cut_is_left_alone(host, patch, way, after, caplog):
    model = add_merging(patch_model(host, patch), *way) if after else host
    model = model if after else patch_model(add_merging(host, *way), patch)
    assert torch.equal(run(model), run(add_merging(host, *way)))
    assert len(caplog.records) == 1


@PATCHES
def test_old_hosts_let_others_merge_what_ours_left(host, patch, monkeypatch):
    """Where nothing stands around calls ours can not be the last: others see what it reduced."""
    monkeypatch.setattr(UNet, "wraps", False)
    table = read_layer_table(host.model.diffusion_model)
    bound = PatchStack([patch]).bind(table)

    def reduce_and_merge(n, context, value, options):
        layer = table.find(*options["block"], options["block_index"])
        call = Call(latent=SIZE, batch=len(n), chunks=(1, 0), progress=1 - TIMESTEP / 999)
        site = Site.over_image(layer, call)
        acting = bound.at(site)
        if acting is not None:
            context, value = acting.reduce(context, value)
        return merge(n, context, value, options)

    found = run(add_merging(patch_model(host, patch)))
    check(found, run(add_merging(host, reduce_and_merge)))


@PATCHES
@pytest.mark.parametrize("told", ["right", "wrong", "nothing"])
def test_features_that_the_host_resized(host, patch, told, monkeypatch, caplog):
    """The right grid where it is told; else all tokens stay, with one warning, or none for none."""
    monkeypatch.setattr(SpatialTransformer, "tells_shape", told == "right")
    shrink = 18, 17

    def resized(h, options):
        if options["block"] == ("input", 0):
            h = torch.nn.functional.interpolate(h, size=shrink)
        if told == "wrong":
            options["activations_shape"] = [1, 4, 5, 7]
        return h

    def resized_skip(h, skip, options):
        return h, torch.nn.functional.interpolate(skip, size=h.shape[2:])

    model = host.clone()
    model.set_model_patch(resized, "input_block_patch_after_skip")
    model.set_model_patch(resized_skip, "output_block_patch")
    plain, found = run(model), run(patch_model(model, patch))
    if told == "right":
        assert (found - plain).abs().max() > 1e-3 * plain.std()
        assert not caplog.records
    else:
        assert torch.equal(found, plain)
        assert len(caplog.records) == 1


def double(q, k, v, options):
    heads = options["n_heads"]
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    return 2 * out.transpose(1, 2).flatten(2)


@PATCHES
def test_foreign_attention_gets_all_tokens(host, patch):
    model = host.clone()
    layers = read_layer_table(host.model.diffusion_model)
    for layer in layers:
        model.set_model_attn1_replace(double, layer.block, layer.number, layer.transformer)
    assert torch.equal(run(patch_model(model, patch)), run(model))


@PATCHES
def test_attention_that_the_user_chose_stays(host, patch, monkeypatch):
    module = SimpleNamespace(optimized_attention=optimized_attention)
    monkeypatch.setitem(sys.modules, "comfy.ldm.modules.attention", module)
    calls = []

    def chosen(function, q, k, v, heads):
        calls.append(q.shape)
        return function(q, k, v, heads)

    model = host.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = chosen
    run(model)
    plain = len(calls)
    calls.clear()
    check(run(patch_model(model, patch)), run(specified(host, patch)))
    assert len(calls) >= plain, "each layer's attention, for tiles of each shape"


@pytest.mark.parametrize("patch", [TokenMerging(), HyperTile(tile_size=64)], ids=repr)
def test_relatives(host, patch):
    plain, patched = run(host), patch_model(host, patch)
    found = run(patched)
    assert torch.equal(found, run(patched))
    assert (found - plain).abs().max() > 1e-3 * plain.std()


def test_two_models_and_a_cancelled_run(host):
    both, tiles = patch_model(host, BOTH), patch_model(host, TILE)
    merging = patch_model(host, TokenMerging(max_depth=2))
    jobs = [(both, 800), (tiles, 200), (both, 300), (merging, 500)]  # one model in two threads
    sizes = [SIZE, (19, 33)]

    def call(index, size):
        model, timestep = jobs[index]
        return run(model, size=size, timestep=timestep, seed=index)

    assert_undisturbed(call, len(jobs), sizes, host.model.diffusion_model.middle_block)
