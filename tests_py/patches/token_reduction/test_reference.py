# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Quirks against the public node pack's own functions; ATTNPATCH_SLOTHFUL names its checkout."""

import importlib.util
import math
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from attnpatch import NearSightedAttention, NearSightedTile, SlothfulAttention
from attnpatch.patches import Call, PatchStack, Site, make_layer_table, token_grid
from attnpatch.patches.token_reduction.pooling import MODES

CHECKOUT = os.environ.get("ATTNPATCH_SLOTHFUL")
pytestmark = [
    pytest.mark.skipif(
        CHECKOUT is None,
        reason="ATTNPATCH_SLOTHFUL names no checkout of comfyui_slothful_attention",
    ),
    pytest.mark.skipif(
        CHECKOUT is not None and importlib.util.find_spec("einops") is None,
        reason="the pack needs einops, which is not installed",
    ),
]
WIDTH = 8
TABLES = {
    "sd1": make_layer_table(
        input=[(WIDTH, [1, 1]), (2 * WIDTH, [1]), (4 * WIDTH, [1])],
        middle=(4 * WIDTH, [1]),
        output=[(4 * WIDTH, [1, 0]), (2 * WIDTH, [1, 1]), (WIDTH, [1, 1])],
    ),
    "sdxl": make_layer_table(
        input=[(WIDTH, [0]), (2 * WIDTH, [2]), (4 * WIDTH, [2])],
        middle=(4 * WIDTH, [2]),
        output=[(4 * WIDTH, [2, 0]), (2 * WIDTH, [2, 0]), (WIDTH, [0, 0])],
    ),
}
HEADS = {
    "sd1": lambda layer: 8,
    "sd2": lambda layer: layer.channels // 4,  # 2, 4 and 8: the deepest it takes for SD1
    "sdxl": lambda layer: layer.channels // WIDTH,
}
TABLES["sd2"] = TABLES["sd1"]


def load():
    spec = importlib.util.spec_from_file_location(
        "reference_slothful", Path(CHECKOUT, "slothful_attention.py")
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.NODE_CLASS_MAPPINGS


class Model:
    """What the pack needs of a model: hooks, and its clock."""

    def __init__(self, timestep):
        config = SimpleNamespace(unet_config={"model_channels": WIDTH})
        clock = SimpleNamespace(timestep=lambda sigma: torch.tensor(timestep))
        self.model = SimpleNamespace(model_config=config, model_sampling=clock)
        self.output = lambda out, options: out

    def clone(self):
        return self

    def set_model_attn1_patch(self, patch):
        self.input = patch

    def set_model_attn1_output_patch(self, patch):
        self.output = patch


def plain(q, k, v, heads):
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).flatten(2)


def reference(model, layer, latent, x, weights, heads):
    options = {
        "block": (layer.block, layer.number),
        "original_shape": (x.shape[0], 4, *latent),
        "sigmas": [torch.tensor(1.0)],
        "n_heads": heads,
    }
    inputs = model.input(x, x, x, options)
    q, k, v = (t @ w.T for t, w in zip(inputs, weights, strict=True))
    return model.output(plain(q, k, v, heads), options)


def accepted(latent, table):
    """Whether the pack's guess of the width divides the tokens at every level."""
    for level in {layer.level for layer in table}:
        h, w = token_grid(*latent, level)
        width = round(latent[1] * math.sqrt(h * w / (latent[0] * latent[1])))
        if h * w % width:
            return False
    return True


SIDES = {
    "subsample": {},
    "blends": {"k_blend": 0.3, "v_blend": 0.8},
    "pooled": {"k_blend": 1.0, "v_blend": 1.0},
    "keys pooled": {"k_blend": 1.0, "v_blend": 0.0},
}
CASES = [
    pytest.param(kind, mode, SIDES[side], id=f"{kind.__name__}-{mode}-{side}")
    for kind in (SlothfulAttention, NearSightedAttention)
    for mode in MODES
    for side in SIDES
]
LATENTS = [(32, 32), (24, 36), (27, 38), (38, 25), (21, 34), (35, 18)]


def compare(patch, family, latent, timestep):
    """Run all layers in forward order, as a UNet does; the pack's random numbers need that."""
    table, generator = TABLES[family], torch.Generator().manual_seed(1)
    node = load()[type(patch).__name__]()
    values = {n: v for n, v in patch.state()[0].items() if n not in ("seed", "reference_quirks")}
    model = Model(timestep)
    node.patch_model(model, **values)
    run = PatchStack([patch]).bind(table.with_heads([HEADS[family](layer) for layer in table]))
    call = Call(latent=latent, batch=2, chunks=(1, 0), progress=0.123, timestep=timestep)
    changed = 0
    for layer in sorted(table, key=lambda layer: (layer.spatial, layer.transformer)):
        site, heads = Site(layer, call, attention="self"), HEADS[family](layer)
        tokens = site.grid[0] * site.grid[1]
        x = torch.randn(2, tokens, layer.channels, generator=generator)
        weights = [torch.randn(2 * [layer.channels], generator=generator) / 4 for _ in range(3)]
        expected = reference(model, layer, latent, x, weights, heads)
        found = run.self_attention(site)
        if found is None:
            out = plain(*(x @ w.T for w in weights), heads)
        else:
            inputs = (x, *found.reduce(site, x, x))
            q, k, v = (t @ w.T for t, w in zip(inputs, weights, strict=True))
            out = found.attend(site, q, k, v, heads, lambda q, k, v, h=heads: plain(q, k, v, h))
            changed += 1
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    return changed


@pytest.mark.parametrize("family", TABLES)
@pytest.mark.parametrize(("kind", "mode", "side"), CASES)
def test_pooling(kind, mode, side, family):
    values = {f"{s}_{name}": value for s in ("in", "out") for name, value in side.items()}
    values |= {"in_mode": mode, "out_mode": mode, "in_slothful": 9.5, "out_depth_decay": 1.0}
    patch = kind(reference_quirks=True, **values)
    assert compare(patch, family, (24, 36), 540) > 0


@pytest.mark.parametrize("family", TABLES)
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize(("ratio", "size"), [(0.5, 32), (0.0, 16), (1.0, 22), (0.1, 18)])
def test_tiles(ratio, size, depth, family):
    tile = NearSightedTile(
        tiling_max_depth=depth, global_ratio=ratio, tile_size=size, reference_quirks=True
    )
    both = NearSightedAttention(
        tiling_max_depth=depth,
        base_global_ratio=ratio / 2,
        peak_global_ratio=ratio,
        base_tile_size=size,
        reference_quirks=True,
    )
    latents = [latent for latent in LATENTS if accepted(latent, TABLES[family])]
    assert len(latents) > 2
    for latent, timestep in zip(latents, (401, 999, 0, 540, 700, 100), strict=False):
        compare(tile, family, latent, timestep)
        compare(both, family, latent, timestep)
