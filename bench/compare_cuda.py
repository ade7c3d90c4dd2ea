# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Speed of the CUDA kernels against what torch does instead, and against the memory's bandwidth.

For the layers of SD1.5 and SDXL at 512, 768 and 1024 pixels, batch 2 (cond and uncond), and for
biased attention those of Flux, batch 1. Every call
is captured in a graph over as many copies of its inputs as fill the device's L2 cache four times,
so that nothing is found there and no launch is waited for; graphs are replayed in turn, round by
round, between CUDA events. Before anything is timed the kernel's results are compared with those of
plain torch. A row is printed as soon as it is measured. The tables are for docs/cuda.md:

- error: largest difference from plain torch; a row whose kernel is wrong is not timed;
- bound: the least time that reading each input and writing each result once would take at the
  bandwidth that torch's own copy reaches on this device, as a share of our time;
- the other columns: another's time over ours, the lower quarter of the rounds and their median.
  Above 1 we are faster. SDPA is torch's flash kernel and cuDNN's, each; the first line says which
  is torch's default. "plain torch" is the operator's own form without a kernel.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import compare_token_reduction as tokens
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from attnpatch.ops import (
    Tiling,
    attention_column_mean,
    biased_attention,
    blur_and_blend,
    blur_and_blend_reference,
    library,
    plain,
    pool_tokens,
    tile_attention,
)
from attnpatch.ops.admission.timing import copies_beyond_cache, measure, ratio
from attnpatch.ops.admission.trial import BOUNDS, largest_error
from attnpatch.ops.branch_attention import branch_attention_flat

BATCH = 2
TEXT_TOKENS, IMAGE_TOKENS = 77, 16
WEIGHT = 0.8
LEVELS = {
    "SD1.5": ((0, 8, 40), (1, 8, 80), (2, 8, 160), (3, 8, 160)),
    "SDXL": ((1, 10, 64), (2, 20, 64)),
}
"""Of each model's attention layers: how often the latent is halved, heads, head size."""

FLUX_HEADS, FLUX_SIZE = 24, 128

Call = Callable[[], object]
Variants = dict[str, Call]
"""A case's calls by the column they stand in: the kernel's first."""

OURS, PLAIN = "kernel", "plain torch"


def attend_by(backend: SDPBackend) -> Callable[..., Tensor]:
    """Return torch's attention by one of its kernels."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v)

    return attend


SDPA = {
    "flash": attend_by(SDPBackend.FLASH_ATTENTION),
    "cuDNN": attend_by(SDPBackend.CUDNN_ATTENTION),
}


@dataclass(frozen=True)
class Case:
    """A row of a table."""

    cells: tuple[object, ...]
    make: Callable[[torch.device, torch.dtype], Variants]
    """All calls, on inputs of their own."""
    values: int
    """Of the compute dtype, that have to be read or written."""


def random(device: torch.device, dtype: torch.dtype, *shape: int) -> Tensor:
    """Return noise."""
    return torch.randn(*shape, device=device, dtype=torch.float32).to(dtype)


def split(flat: Tensor, heads: int) -> Tensor:
    """View (B, N, C) as (B, H, N, D), as hosts hand it over."""
    return flat.unflatten(2, (heads, -1)).transpose(1, 2)


@dataclass(frozen=True)
class Layer:
    """An attention layer at a picture size."""

    model: str
    pixels: int
    side: int
    heads: int
    head_size: int

    @property
    def tokens(self) -> int:
        """Of the grid."""
        return self.side * self.side

    @property
    def channels(self) -> int:
        """Of all heads."""
        return self.heads * self.head_size

    @property
    def cells(self) -> tuple[object, ...]:
        """What a row begins with."""
        return self.model, self.pixels, self.tokens, f"{self.heads} x {self.head_size}"


def layers(pixels: list[int]) -> Iterator[Layer]:
    """Give all kinds of layers at some sizes."""
    for model, levels in LEVELS.items():
        for size in pixels:
            for level, heads, head_size in levels:
                yield Layer(model, size, size // 8 >> level, heads, head_size)


def branch_cases(pixels: list[int]) -> Iterator[Case]:
    """Text and one image prompt."""
    for layer in layers(pixels):
        values = 2 * BATCH * (layer.tokens + TEXT_TOKENS + IMAGE_TOKENS) * layer.channels
        yield Case(layer.cells, partial(branch_calls, layer), values)


def branch_calls(layer: Layer, device: torch.device, dtype: torch.dtype) -> Variants:
    """Ours, plain torch, each SDPA over all keys and over the text alone."""

    def inputs(length: int) -> Tensor:
        return split(random(device, dtype, BATCH, length, layer.channels), layer.heads)

    q, k, v = inputs(layer.tokens), inputs(TEXT_TOKENS), inputs(TEXT_TOKENS)
    image_k, image_v = inputs(IMAGE_TOKENS), inputs(IMAGE_TOKENS)
    all_k, all_v = torch.cat([k, image_k], dim=2), torch.cat([v, image_v], dim=2)
    rows = [torch.arange(BATCH, device=device)]
    weights = torch.full((1, BATCH), WEIGHT, device=device)
    arguments = (q, k, v, [image_k], [image_v], rows, weights)
    return {
        OURS: lambda: branch_attention_flat(*arguments),
        PLAIN: lambda: plain.branch_attention(*arguments),
        **{f"{name}, all keys": partial(sdpa, q, all_k, all_v) for name, sdpa in SDPA.items()},
        **{f"{name}, the text": partial(sdpa, q, k, v) for name, sdpa in SDPA.items()},
    }


def column_cases(pixels: list[int]) -> Iterator[Case]:
    """Self-attention with its record."""
    for layer in layers(pixels):
        yield Case(
            layer.cells, partial(column_calls, layer), 4 * BATCH * layer.tokens * layer.channels
        )


def column_calls(layer: Layer, device: torch.device, dtype: torch.dtype) -> Variants:
    """Ours, plain torch, each SDPA without a record."""
    q, k, v = (
        split(random(device, dtype, BATCH, layer.tokens, layer.channels), layer.heads)
        for _ in "qkv"
    )
    return {
        OURS: lambda: attention_column_mean(q, k, v, [BATCH - 1]),
        PLAIN: lambda: plain.attention_column_mean(q, k, v, [BATCH - 1]),
        **{name: partial(sdpa, q, k, v) for name, sdpa in SDPA.items()},
    }


def biased_cases(pixels: list[int]) -> Iterator[Case]:
    """Joint attention of a transformer like Flux, with one term and with four."""
    for size in pixels:
        tokens = 512 + (size // 16) ** 2
        for terms in (1, 4):
            values = 4 * tokens * FLUX_HEADS * FLUX_SIZE
            cells = ("Flux", size, tokens, f"{FLUX_HEADS} x {FLUX_SIZE}", terms)
            yield Case(cells, partial(biased_calls, tokens, terms), values)


def biased_calls(tokens: int, terms: int, device: torch.device, dtype: torch.dtype) -> Variants:
    """Ours, plain torch, torch with the bias made whole, each SDPA without one."""
    channels = FLUX_HEADS * FLUX_SIZE
    q, k, v = (split(random(device, dtype, 1, tokens, channels), FLUX_HEADS) for _ in "qkv")
    u = torch.rand(1, tokens, terms, device=device)
    w = torch.randn(1, tokens, terms, device=device)
    bias = (u @ w.mT).to(dtype)[:, None]
    return {
        OURS: lambda: biased_attention(q, k, v, u, w),
        PLAIN: lambda: plain.biased_attention(q, k, v, u, w),
        "a whole bias": lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=bias),
        **{name: partial(sdpa, q, k, v) for name, sdpa in SDPA.items()},
    }


def tile_cases(pixels: list[int]) -> Iterator[Case]:
    """Tiles with shared tokens."""
    for family in tokens.LEVELS:
        for site in (s for size in pixels for s in tokens.sites(family, size)):
            grid, tile = site.tiling.grid, site.tiling.tile
            down, across = site.shared_stride
            shared = -(-grid[0] // down) * -(-grid[1] // across)
            keys = site.tiling.pooled(site.stride) + shared
            cells = (
                *(family, site.pixels, "{} x {}".format(*grid), f"{site.heads} x {site.size}"),
                *("{} x {}".format(*tile), Tiling(tile, tile).pooled(site.stride)),
            )
            values = 2 * BATCH * (math.prod(grid) + keys) * site.heads * site.size
            yield Case(cells, partial(tile_calls, site), values)


def tile_calls(site: tokens.Site, device: torch.device, dtype: torch.dtype) -> Variants:
    """Ours, plain torch, gathered tiles with SDPA, each SDPA over the grid."""
    tiling, pooled = site.tiling, site.stride != (1, 1)
    q, k, v = (
        random(device, dtype, BATCH, math.prod(tiling.grid), site.heads * site.size) for _ in "qkv"
    )

    def pool(x: Tensor, where: Any, stride: tuple[int, int], blend: float) -> Tensor:
        return pool_tokens(x, where, stride, stride, "avg", [blend])[0]

    far = [pool(x, tiling.grid, site.shared_stride, 0.0) for x in (k, v)]
    own = [pool(x, tiling, site.stride, 1.0) if pooled else x for x in (k, v)]
    tiles = [tokens.gather(x, tiling) for x in (k, v)]
    if pooled:
        tiles = [pool(x, tiling.tile, site.stride, 1.0) for x in tiles]

    def heads(x: Tensor) -> Tensor:
        return split(x, site.heads)

    def gathered() -> Tensor:
        count = math.prod(tiling.tiles)
        near = tiles if pooled else [tokens.gather(x, tiling) for x in (k, v)]
        keys, values = (
            torch.cat([a, b.repeat_interleave(count, dim=0)], dim=1)
            for a, b in zip(near, far, strict=True)
        )
        queries = heads(tokens.gather(q, tiling))
        out = F.scaled_dot_product_attention(queries, heads(keys), heads(values))
        return tokens.scatter(out.transpose(1, 2).flatten(2), tiling)

    stride = site.stride if pooled else ()
    cut = (tiling.grid, tiling.tile, tiling.offset)
    near, shared = list(map(heads, own)), list(map(heads, far))
    return {
        OURS: lambda: tile_attention(heads(q), *near, tiling, stride, *shared),
        PLAIN: lambda: plain.tile_attention(heads(q), *near, *cut, stride, *shared),
        "gathered, SDPA": gathered,
        **{
            f"{name}, the grid": partial(sdpa, heads(q), heads(k), heads(v))
            for name, sdpa in SDPA.items()
        },
    }


def pool_cases(pixels: list[int]) -> Iterator[Case]:
    """Every second token both ways, two blends."""
    for layer in (layer for layer in layers(pixels) if layer.side >= 16):
        for mode in ("avg", "max"):
            # Read once; two results of a quarter each.
            values = BATCH * layer.tokens * layer.channels * 3 // 2
            yield Case((*layer.cells, mode), partial(pool_calls, layer, mode), values)


def pool_calls(layer: Layer, mode: str, device: torch.device, dtype: torch.dtype) -> Variants:
    """Ours, plain torch."""
    x = random(device, dtype, BATCH, layer.tokens, layer.channels)
    grid, window, blends = (layer.side, layer.side), (2, 2), [0.3, 0.7]
    return {
        OURS: lambda: pool_tokens(x, grid, window, window, mode, blends),
        PLAIN: lambda: plain.pool_tokens(x, grid, grid, (0, 0), window, window, mode, blends),
    }


def blur_cases(pixels: list[int]) -> Iterator[Case]:
    """Latents under the record of the middle block."""
    for size in pixels:
        side = size // 8
        cells = (size, f"{BATCH} x 4 x {side} x {side}")
        yield Case(cells, partial(blur_calls, side), 2 * BATCH * 4 * side * side)


def blur_calls(side: int, device: torch.device, dtype: torch.dtype) -> Variants:
    """Ours, plain torch, the readable reference."""
    x0 = random(device, dtype, BATCH, 4, side, side)
    saliency = 2 * torch.rand(BATCH, side // 8, side // 8, device=device)
    return {
        OURS: lambda: blur_and_blend(x0, saliency, 2.0),
        PLAIN: lambda: plain.blur_and_blend(x0, saliency, 2.0),
        "the reference": lambda: blur_and_blend_reference(x0, saliency, 2.0),
    }


TABLES: dict[str, tuple[Callable[[list[int]], Iterator[Case]], tuple[str, ...]]] = {
    "branch_attention": (branch_cases, ("model", "pixels", "tokens", "heads x size")),
    "attention_column_mean": (column_cases, ("model", "pixels", "tokens", "heads x size")),
    "biased_attention": (
        biased_cases,
        ("model", "pixels", "tokens", "heads x size", "terms"),
    ),
    "tile_attention": (
        tile_cases,
        ("model", "pixels", "grid", "heads x size", "tile", "own keys"),
    ),
    "pool_tokens": (pool_cases, ("model", "pixels", "tokens", "heads x size", "mode")),
    "blur_and_blend": (blur_cases, ("pixels", "latent")),
}


def bandwidth(device: torch.device) -> float:
    """Bytes a second that torch's copy reads and writes."""
    if device.type != "cuda":
        return math.nan
    x = torch.empty(1 << 29, device=device, dtype=torch.uint8)
    y = torch.empty_like(x)
    (found,) = measure(device, [[lambda: y.copy_(x)]], 9, 0.05)
    return 2 * x.numel() / statistics.median(found)


def default_attention(device: torch.device, dtype: torch.dtype) -> str:
    """Name the kernel that torch's attention takes here by itself."""
    q = random(device, dtype, 1, 1, 64, 64)
    choice = torch._fused_sdp_choice(q, q, q)
    return next(
        (name for name, kind in SDPBackend.__members__.items() if kind.value == choice), "?"
    )


def can(call: Call) -> bool:
    """Whether torch has such a kernel for these inputs."""
    try:
        call()
    except RuntimeError:
        return False
    return True


def cells(case: Case, args: argparse.Namespace, rate: float) -> dict[str, str]:
    """Compare, then measure a case: what stands in its row."""
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    size = case.values * dtype.itemsize
    made = [case.make(device, dtype) for _ in range(copies_beyond_cache(device, size))]
    error = largest_error(made[0][OURS](), made[0][PLAIN]())
    row = {"error": f"{error:.1g}"}
    if not error <= 2 * BOUNDS[dtype]:
        return {**row, "kernel, ms": "WRONG"}
    names = [name for name, call in made[0].items() if name in (OURS, PLAIN) or can(call)]
    calls = [[variants[name] for variants in made] for name in names]
    ours, *others = measure(device, calls, args.rounds, args.seconds)
    middle = statistics.median(ours)
    row |= {"kernel, ms": f"{middle * 1e3:.4f}", "bound": f"{size / rate / middle:.2f}"}
    for name, times in zip(names[1:], others, strict=True):
        median, quarter = ratio(times, ours)
        row[name] = f"{quarter:.2f} {median:.2f}"
    return row


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.01, help="of each variant in a round")
    parser.add_argument("--dtype", choices=["float16", "bfloat16", "float32"], default="float16")
    parser.add_argument("--size", type=int, nargs="+", default=[512, 768, 1024])
    parser.add_argument("--operator", choices=list(TABLES), nargs="+", default=list(TABLES))
    parser.add_argument("--device", default="cuda", help="cpu: to try this script")
    return parser.parse_args()


@torch.no_grad()
def main() -> None:
    """Print the tables."""
    args = arguments()
    device = torch.device(args.device)
    if device.type == "cuda" and "cuda" not in library._LIMITS:
        raise SystemExit("ATTNPATCH_BACKEND=cuda is needed: else torch is compared with torch")
    rate = bandwidth(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    default = default_attention(device, getattr(torch, args.dtype))
    print(
        f"{name}, {args.dtype}, torch {torch.__version__} (SDPA: {default}), batch {BATCH}, "
        f"copy at {rate / 1e9:.0f} GB/s, {time.strftime('%Y-%m-%d', time.gmtime())}"
    )
    for operator in args.operator:
        make, first = TABLES[operator]
        cases = list(make(args.size))
        if not cases:
            continue
        others = [
            name for name in cases[0].make(device, getattr(torch, args.dtype)) if name != OURS
        ]
        heads = ["error", "kernel, ms", "bound", *others]
        print(f"\n### {operator}\n| " + " | ".join([*first, *heads]) + " |")
        print("| " + " | ".join(["---"] * (len(first) + len(heads))) + " |", flush=True)
        for case in cases:
            row = cells(case, args, rate)
            values = [*map(str, case.cells), *(row.get(head, "") for head in heads)]
            print("| " + " | ".join(values) + " |", flush=True)


if __name__ == "__main__":
    main()
