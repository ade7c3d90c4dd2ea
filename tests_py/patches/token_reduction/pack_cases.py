# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Cases in which ``compat`` must equal the public node pack, and what ours computes.

Each case runs the self-attention of every layer of a small UNet with random weights, in forward
order: the pack's random numbers depend on it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from attnpatch import NearSightedAttention, NearSightedTile, SlothfulAttention
from attnpatch.engine import Call, PatchStack, Site, make_layer_table, token_grid
from attnpatch.patches.token_reduction.patch import PACK
from attnpatch.patches.token_reduction.pooling import MODES
from flat_attention import attend_flat

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
TABLES["sd2"] = TABLES["sd1"]
HEADS = {
    "sd1": lambda layer: 8,
    "sd2": lambda layer: layer.channels // 4,  # 2, 4 and 8: the deepest it takes for SD1
    "sdxl": lambda layer: layer.channels // WIDTH,
}
SIDES = {
    "subsample": {},
    "blends": {"k_blend": 0.3, "v_blend": 0.8},
    "pooled": {"k_blend": 1.0, "v_blend": 1.0},
    "keys pooled": {"k_blend": 1.0, "v_blend": 0.0},
}
LATENTS = [(32, 32), (24, 36), (27, 38), (38, 25), (21, 34), (35, 18)]
TIMESTEPS = (401, 999, 0, 540, 700, 100)
OUTPUTS = Path(__file__).with_name("pack_outputs.safetensors")
"""The pack's outputs of every case, summed; ``tools/freeze_pack_outputs.py`` writes them."""


class Case(NamedTuple):
    """A patch, a model's family, the size of a latent, and a step."""

    patch: SlothfulAttention | NearSightedAttention | NearSightedTile
    family: str
    latent: tuple[int, int]
    timestep: int


class Step(NamedTuple):
    """One layer's self-attention: its place, and what goes in."""

    site: Site
    heads: int
    tokens: Tensor
    weights: list[Tensor]  # of query, key and value


def accepted(latent: tuple[int, int], family: str) -> bool:
    """Whether the pack's guess of the width divides the tokens at every level."""
    for level in {layer.level for layer in TABLES[family]}:
        h, w = token_grid(*latent, level)
        width = round(latent[1] * math.sqrt(h * w / (latent[0] * latent[1])))
        if h * w % width:
            return False
    return True


def pooling_cases() -> Iterator[tuple[str, Case]]:
    for kind in (SlothfulAttention, NearSightedAttention):
        for mode in MODES:
            for side, blends in SIDES.items():
                values = {f"{s}_{n}": value for s in ("in", "out") for n, value in blends.items()}
                values |= {"in_mode": mode, "out_mode": mode, "in_slothful": 9.5}
                patch = kind(compat=PACK, out_depth_decay=1.0, **values)
                for family in TABLES:
                    name = f"{kind.__name__}, {mode}, {side}, {family}"
                    yield name, Case(patch, family, (24, 36), 540)


def tile_cases() -> Iterator[tuple[str, Case]]:
    for ratio, size in [(0.5, 32), (0.0, 16), (1.0, 22), (0.1, 18)]:
        for depth in (1, 2, 3):
            common = {"tiling_max_depth": depth, "compat": PACK}
            tile = NearSightedTile(global_ratio=ratio, tile_size=size, **common)
            both = NearSightedAttention(
                base_global_ratio=ratio / 2, peak_global_ratio=ratio, base_tile_size=size, **common
            )
            for family in TABLES:
                latents = [latent for latent in LATENTS if accepted(latent, family)]
                for latent, timestep in zip(latents, TIMESTEPS, strict=False):
                    for patch in (tile, both):
                        name = f"{type(patch).__name__}, tiles, {ratio}, {size}, {depth}, {family}"
                        yield name, Case(patch, family, latent, timestep)


def all_cases() -> dict[str, list[Case]]:
    """Return the cases by name; those of a name differ in the latent and the step."""
    cases = defaultdict(list)
    for name, case in (*pooling_cases(), *tile_cases()):
        cases[name].append(case)
    return dict(cases)


def steps(case: Case) -> Iterator[Step]:
    """Make a case's layers in forward order, and the random numbers that go in."""
    table, heads_of = TABLES[case.family], HEADS[case.family]
    generator = torch.Generator().manual_seed(1)
    call = Call(latent=case.latent, batch=2, chunks=(1, 0), progress=0.123, timestep=case.timestep)
    for layer in sorted(table, key=lambda layer: (layer.spatial, layer.transformer)):
        site = Site.over_image(layer, call)
        tokens = torch.randn(2, site.grid[0] * site.grid[1], layer.channels, generator=generator)
        weights = [torch.randn(2 * [layer.channels], generator=generator) / 4 for _ in range(3)]
        yield Step(site, heads_of(layer), tokens, weights)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).flatten(2)


def project(inputs: tuple[Tensor, ...], weights: list[Tensor]) -> list[Tensor]:
    return [x @ weight.T for x, weight in zip(inputs, weights, strict=True)]


def our_outputs(case: Case) -> tuple[list[Tensor], int]:
    """Return every layer's output with our patch, and how many layers the patch changed."""
    table, heads_of = TABLES[case.family], HEADS[case.family]
    run = PatchStack([case.patch]).bind(table.with_heads([heads_of(layer) for layer in table]))
    outputs, changed = [], 0
    for site, heads, x, weights in steps(case):
        attention = lambda q, k, v, h=heads: plain_attention(q, k, v, h)  # noqa: E731
        found = run.at(site)
        if found is None:
            outputs.append(attention(*project((x, x, x), weights)))
        else:
            q, k, v = project((x, *found.reduce(x, x)), weights)
            outputs.append(attend_flat(found, q, k, v, heads, attention))
            changed += 1
    return outputs, changed


def signed_sums(outputs: list[Tensor]) -> Tensor:
    """Shorten outputs for a file: for each layer and row of the batch, two sums.

    Each value has a random sign in either sum. A wrong value anywhere, or two that have changed
    places, changes them, and the square root of the number of values keeps sums of order one.
    """
    generator = torch.Generator().manual_seed(2)
    sums = []
    for out in outputs:
        values = out.double().flatten(1)
        signs = torch.randint(0, 2, (values.shape[1], 2), generator=generator) * 2.0 - 1
        sums.append(values @ signs.double() / math.sqrt(values.shape[1]))
    return torch.stack(sums).float()
