# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What the patches compute, against docs/design/token-reduction.md in float64."""

import pytest
import reduction_spec as spec
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnpatch._core import tile_offset, tile_shape
from attnpatch.engine import Call, PatchStack, Site, layer_table, make_layer_table
from attnpatch.engine.edits import Inner
from attnpatch.engine.heads import join_heads, split_heads
from attnpatch.patches import NearSightedAttention, NearSightedTile, SlothfulAttention
from attnpatch.patches.token_reduction.pooling import MODES
from flat_attention import attend_flat

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
HEADS = 2
CHANNELS = 8
# Depths 1, 2 and 4, as SD1.x has them, at widths that cost nothing.
TABLE = make_layer_table(
    input=[(CHANNELS, [1]), (2 * CHANNELS, [1]), (4 * CHANNELS, [1])],
    middle=(4 * CHANNELS, [1]),
    output=[(4 * CHANNELS, [1, 0]), (2 * CHANNELS, [1, 0]), (CHANNELS, [1, 0])],
)


def plain(q, k, v):
    q, k, v = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).flatten(2)


def run_patch(patch, layer, call, x, weights, foreign=False):
    """Self-attention of a layer as a host computes it; the second result: how many keys."""
    site = Site.over_image(layer, call)
    found = PatchStack([patch]).bind(TABLE).at(site)
    w_q, w_k, w_v = weights
    if found is None:
        return plain(x @ w_q.T, x @ w_k.T, x @ w_v.T), x.shape[1]
    k_input, v_input = found.reduce(x, x)
    q, k, v = x @ w_q.T, k_input @ w_k.T, v_input @ w_v.T
    return attend_flat(found, q, k, v, HEADS, plain, is_softmax=not foreign), k.shape[1]


def where_of(patch, layer, call):
    grid = Site.over_text(layer, call).grid
    timestep = (1 - call.progress) * 999
    size = getattr(patch, "tile_size", None)
    if size is None and not isinstance(patch, SlothfulAttention):
        time = spec.ratio(patch, timestep)
        size = round(spec.lerp(patch.base_tile_size, patch.peak_tile_size, time))
    offset = (0, 0)
    if size is not None:
        tile = tile_shape(grid, size)
        offset = tile_offset(grid, tile, patch.seed, float(round(timestep)), layer.index)
    depth = layer.channels // CHANNELS
    return spec.Where(layer.block, depth, 1 / depth, grid, timestep, offset)


def make_inputs(layer, call, seed=0):
    generator = torch.Generator().manual_seed(seed)
    h, w = Site.over_text(layer, call).grid
    channels = layer.channels
    x = torch.randn(call.batch, h * w, channels, generator=generator)
    weights = [
        torch.randn(channels, channels, generator=generator) / channels**0.5 for _ in range(3)
    ]
    return x, weights


def check(patch, layer, call, **options):
    x, weights = make_inputs(layer, call)
    expected = spec.attention(patch, where_of(patch, layer, call), x, weights, HEADS)
    for device in DEVICES:
        there = [w.to(device) for w in weights]
        out, keys = run_patch(patch, layer, call, x.to(device), there, **options)
        torch.testing.assert_close(out.cpu().double(), expected, rtol=1e-4, atol=1e-5)
    return keys


sides = st.fixed_dictionaries(
    {
        f"{side}_{name}": values
        for side in ("in", "out")
        for name, values in {
            "mode": st.sampled_from(MODES),
            "depth_decay": st.sampled_from([0.0, 1.5, 2.0]),
            "slothful": st.floats(0.0, 50.0),
            "k_blend": st.sampled_from([0.0, 0.3, 1.0]),
            "v_blend": st.sampled_from([0.0, 0.3, 1.0]),
        }.items()
    }
)
times = st.fixed_dictionaries(
    {"peak_time": st.floats(0.0, 1.0), "time_decay": st.sampled_from([0.0, 0.5, 2.0])}
)
# Sizes of the latent, odd and prime ones too; on the deeper levels they are halved, rounded up.
latents = st.tuples(st.integers(1, 37), st.integers(1, 37))
calls = st.builds(
    Call,
    latent=latents,
    batch=st.just(2),
    chunks=st.sampled_from([(0,), (1, 0), (0, 1)]),
    progress=st.floats(0.0, 1.0),
)
layers = st.sampled_from(list(TABLE))


@settings(max_examples=40)
@given(layers, calls, times, sides, st.booleans())
def test_slothful_attention(layer, call, time, side, foreign):
    check(SlothfulAttention(**time, **side), layer, call, foreign=foreign)


tile_sizes = st.integers(16, 24)
ratios = st.sampled_from([0.0, 0.25, 0.8, 1.0])


@settings(max_examples=40)
@given(layers, calls, st.integers(1, 3), ratios, tile_sizes, st.integers(0, 9), st.booleans())
def test_near_sighted_tile(layer, call, depth, ratio, size, seed, foreign):
    patch = NearSightedTile(tiling_max_depth=depth, global_ratio=ratio, tile_size=size, seed=seed)
    check(patch, layer, call, foreign=foreign)


@settings(max_examples=60)
@given(layers, calls, times, sides, st.tuples(ratios, ratios), st.tuples(tile_sizes, tile_sizes))
def test_near_sighted_attention(layer, call, time, side, ratio, size):
    patch = NearSightedAttention(
        tiling_max_depth=3,
        base_global_ratio=ratio[0],
        peak_global_ratio=ratio[1],
        base_tile_size=size[0],
        peak_tile_size=size[1],
        **time,
        **side,
    )
    check(patch, layer, call, foreign=call.chunks == (0, 1))


@pytest.mark.parametrize(
    ("patch", "block", "latent", "keys"),
    [
        # stride 6: 3 × 2 tokens become one
        (SlothfulAttention(time_decay=0), "input", (30, 32), 10 * 16),
        (SlothfulAttention(time_decay=0), "output", (30, 32), 15 * 16),  # stride 4: 2 × 2
        (SlothfulAttention(time_decay=0), "middle", (30, 32), 4 * 4 * 4),  # left alone
        # four tiles of their own tokens; the shared ones are some of them
        (NearSightedTile(tile_size=16), "input", (32, 32), 32 * 32),
        # 2 × 2 tiles of 16 × 16 by 3 × 2, and by stride 6 · 4 / 0.8 = 30, which is 6 × 5
        (NearSightedAttention(time_decay=0, peak_tile_size=16), "input", (32, 32), 4 * 48 + 6 * 7),
        (NearSightedAttention(time_decay=0), "input", (32, 32), 11 * 16),  # one tile
        (
            NearSightedAttention.simple(time_decay=0, peak_tile_size=16),
            "output",
            (32, 32),
            4 * 64 + 8 * 7,
        ),
    ],
    ids=str,
)
def test_keys_that_are_projected(patch, block, latent, keys):
    layer = next(x for x in TABLE if x.block == block and (block == "middle" or x.level == 0))
    assert check(patch, layer, Call(latent=latent, progress=0.5)) == keys


def test_pooled_keys_go_to_the_kernel_where_attention_is_plain():
    plan = SlothfulAttention(time_decay=0).side("input").pool(6.0, (9, 8))
    q, keys = torch.randn(2, 9 * 8, CHANNELS), torch.randn(2, 3 * 4, CHANNELS)

    def through(q, k, attention_is_plain=True):
        calls = []

        def attention(*given):
            calls.append(given)
            return plain(*given)

        def host_attention(*given):
            return split_heads(attention(*(join_heads(x) for x in given)), HEADS)

        inner = Inner(host_attention, attention_is_plain)
        out = join_heads(plan.attend(*(split_heads(x, HEADS) for x in (q, k, k)), inner))
        torch.testing.assert_close(out, plain(q, k, k), rtol=1e-5, atol=1e-6)
        return len(calls)

    assert through(q, keys) == 0
    assert through(q, keys, attention_is_plain=False) == 1
    assert through(q, keys[:, 1:]) == 1, "another patch changed the keys"
    assert through(q.double(), keys.double()) == 1, "no kernel of ours"
    assert through(q.clone().requires_grad_(), keys) == 1, "torch's keeps what gradients need"


def test_rate_of_sdxl_starts_at_its_first_attention():
    table = layer_table("sdxl")
    call = Call(latent=(64, 64), progress=0.5)
    run = PatchStack([SlothfulAttention(time_decay=0)]).bind(table)
    counts = {}
    for layer in table:
        site = Site.over_image(layer, call)
        found = run.at(site)
        x = torch.zeros(1, site.grid[0] * site.grid[1], 1)
        k_input = x if found is None else found.reduce(x, x)[0]
        counts[layer.block, layer.channels] = k_input.shape[1]
    # strides 6 and 1.5 in input blocks, 4 and 1 in output blocks
    assert counts == {
        ("input", 640): 11 * 16,
        ("input", 1280): 8 * 16,
        ("output", 640): 16 * 16,
        ("output", 1280): 16 * 16,
        ("middle", 1280): 16 * 16,
    }


def test_time_ratio_of_the_default_parameters():
    patch = SlothfulAttention()
    ratios = [spec.ratio(patch, t) for t in (999, 600, 0)]
    assert ratios == pytest.approx([0.53, 1.0, 0.24], abs=0.005)
