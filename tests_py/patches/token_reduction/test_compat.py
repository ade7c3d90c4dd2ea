# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What ``compat="comfyui_slothful_attention"`` changes, one quirk after the other."""

import math
from dataclasses import replace
from random import Random

import pytest
import torch

from attnpatch import NearSightedAttention, NearSightedTile, SlothfulAttention
from attnpatch.engine import Call, LayerTable, PatchStack, Site, layer_table
from attnpatch.patches.token_reduction.patch import PACK
from attnpatch.patches.token_reduction.slothful_pack import guess_grid
from flat_attention import attend_flat

SD1 = layer_table("sd1")
INPUT, OUTPUT = SD1.find("input", 1, 0), SD1.find("output", 11, 0)
FIRST = [SD1.find("input", 1, 0), SD1.find("input", 2, 0)]


def stage(patch, layer, latent, timestep=500):
    call = Call(latent=latent, timestep=timestep, progress=1 - timestep / 999)
    site = Site.over_image(layer, call)
    return PatchStack([patch]).bind(SD1).at(site), site


def reduce(patch, layer, latent, x):
    found, _site = stage(patch, layer, latent)
    return found.reduce(x, x)


def field(h, w, seed=0):
    return torch.randn(1, h * w, 4, generator=torch.Generator().manual_seed(seed))


def test_input_and_output_blocks_swap_their_strength():
    patch = SlothfulAttention(time_decay=0, in_slothful=9, out_slothful=4)
    x = field(12, 12)
    for layer, ours, theirs in ((INPUT, 3, 2), (OUTPUT, 2, 3)):
        assert reduce(patch, layer, (12, 12), x)[0].shape[1] == (12 // ours) ** 2
        quirky = replace(patch, compat=PACK)
        assert reduce(quirky, layer, (12, 12), x)[0].shape[1] == (12 // theirs) ** 2


def test_blends_of_one_and_one_pool_nothing():
    x = field(8, 8)
    patch = SlothfulAttention(time_decay=0, out_slothful=4, in_slothful=4, compat=PACK)
    patch = replace(patch, in_k_blend=1, in_v_blend=1)
    keys, values = reduce(patch, INPUT, (8, 8), x)
    grid = x.view(1, 8, 8, 4)
    assert torch.equal(keys, grid[:, ::2, ::2].flatten(1, 2))
    assert torch.equal(values, keys)
    keys, values = reduce(replace(patch, in_v_blend=0), INPUT, (8, 8), x)
    assert not torch.equal(keys, values)


def test_windows_that_do_not_fit_are_dropped():
    x = field(9, 9)
    patch = SlothfulAttention(time_decay=0, out_slothful=4, in_slothful=4)
    for compat, rows in ((None, 5), (PACK, 4)):
        keys, _ = reduce(replace(patch, compat=compat), INPUT, (9, 9), x)
        assert torch.equal(keys, x.view(1, 9, 9, 4)[:, ::2, ::2][:, :rows, :rows].flatten(1, 2))


def uniform(patch, latent):
    """Attend with queries of zero: every key counts alike, and values of one tell how many."""
    found, _site = stage(patch, INPUT, latent)
    x = torch.ones(1, latent[0] * latent[1], 4)
    keys, values = found.reduce(x, x)

    def attention(q, k, v):
        return v.mean(1, keepdim=True).expand(-1, q.shape[1], -1)

    out = attend_flat(found, torch.zeros_like(x), keys, values, 2, attention, is_softmax=False)
    return out.view(*latent, 4)[..., 0]


def test_zeros_around_the_grid_are_keys():
    # 25 rows in two tiles of 13: the last row is padding
    patch = NearSightedTile(tile_size=16, global_ratio=0)
    assert torch.equal(uniform(patch, (25, 16)), torch.ones(25, 16))
    out = uniform(replace(patch, compat=PACK), (25, 16))
    torch.testing.assert_close(out[:13], torch.ones(13, 16))  # no row before: drawn from [0, 1)
    torch.testing.assert_close(out[13:], torch.full((12, 16), 12 / 13))
    patch = NearSightedAttention(
        in_slothful=0, base_tile_size=16, peak_tile_size=16, base_global_ratio=0,
        peak_global_ratio=0, compat=PACK,
    )  # fmt: skip
    out = uniform(patch, (25, 16))
    torch.testing.assert_close(out[13:], torch.full((12, 16), 12 / 13))


def test_the_sample_swaps_its_strides():
    x = field(32, 17)
    patch = NearSightedTile(tile_size=16, global_ratio=0.8, compat=PACK)
    # 4 tiles / 0.8 = 5: three rows by two columns, but the other way round
    keys, _ = reduce(patch, INPUT, (32, 17), x)
    assert torch.equal(keys[:, 4 * 16 * 9 :], x.view(1, 32, 17, 4)[:, ::2, ::3].flatten(1, 2))


def test_offsets_are_drawn_site_after_site():
    # 70 rows and columns in three tiles of 24: two of padding
    patch = NearSightedTile(compat=PACK)
    random = Random(321)
    for layer in FIRST:
        found, _ = stage(patch, layer, (70, 70), timestep=321.7)
        assert found._chain.reducing._plan.offset == (random.randrange(2), random.randrange(2))


@pytest.mark.parametrize("kind", [SlothfulAttention, NearSightedAttention])
def test_sd2_is_taken_for_sdxl(kind):
    """Where a layer has other than eight heads the reference takes the depth for that of SDXL."""
    patch = kind(time_decay=0, in_slothful=4, out_slothful=4, in_depth_decay=1)
    strides = {None: {}, PACK: {}}
    for compat, found in strides.items():
        for name in ("sd1", "sd2", "sdxl"):
            bound = replace(patch, compat=compat).bind(layer_table(name))
            found[name] = [patch.side("input").stride(place) for place in bound._places[:5]]
    assert strides[None]["sd1"] == strides[None]["sd2"] == [4, 4, 2, 2, 1]
    assert strides[PACK]["sd1"] == strides[None]["sd1"]
    assert strides[PACK]["sdxl"] == strides[None]["sdxl"]
    assert strides[PACK]["sd2"] == [8, 8, 4, 4, 2]
    # A table that does not tell heads is one of those families that it is right about.
    unknown = LayerTable(list(layer_table("sd2")))
    bound = replace(patch, compat=PACK).bind(unknown)
    assert [patch.side("input").stride(place) for place in bound._places[:5]] == [4, 4, 2, 2, 1]


def test_guess_of_the_grid():
    for latent, grid in (((64, 64), (64, 64)), ((96, 64), (48, 32)), ((67, 91), (17, 23))):
        width = round(latent[1] * math.sqrt(grid[0] * grid[1] / (latent[0] * latent[1])))
        expected = (grid[0] * grid[1] // width, width)
        holds = expected[0] * expected[1] == grid[0] * grid[1]
        assert guess_grid(latent, grid) == (expected if holds else grid)
    assert guess_grid((67, 91), (17, 23)) == (17, 23)
    assert guess_grid((1, 9), (1, 1)) == (1, 1)
