# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Speed of pool_tokens and tile_attention against what a user would otherwise run, as ratios.

For the self-attention sites of SD1.5 and SDXL at 512, 768 and 1024 pixels that Near-sighted
attention tiles, batch 2 (cond and uncond), all in one process and interleaved round by round:

- gathered: tiles padded and gathered to a batch, the shared tokens repeated for each, torch's SDPA,
  the result put back;
- full: SDPA over the whole grid, what the plain model runs.

For pool_tokens with two blends: torch's subsample, pooling and lerp of each; and the share of a
copy's rate, reading and writing as much.
A ratio is the other's time over ours: above 1 we are faster. Each is the median over the rounds.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from measuring import Measuring, add_arguments, copying, measure, milliseconds, ratio
from torch import Tensor
from tqdm import tqdm

from attnpatch import _core
from attnpatch.ops import Tiling, pool_tokens, tile_attention

BATCH = 2
TILE = 32
GLOBAL_RATIO = 0.5
LEVELS = {"SD1.5": ((0, 8, 40), (1, 8, 80)), "SDXL": ((1, 10, 64), (2, 20, 64))}


@dataclass(frozen=True)
class Site:
    """A kind of self-attention layer and how it is tiled."""

    family: str
    pixels: int
    heads: int
    size: int
    tiling: Tiling
    stride: tuple[int, int]  # of each tile's own keys; (1, 1): all of its tokens

    @property
    def shared_stride(self) -> tuple[int, int]:
        """Stride of the shared tokens over the whole grid."""
        tokens = math.prod(self.stride) * math.prod(self.tiling.tiles) / GLOBAL_RATIO
        down, across = _core.pool_extent(tokens, 2, self.tiling.grid)
        return down, across


def sites(family: str, pixels: int) -> Iterator[Site]:
    """Tiled sites of a model family at a picture size, without and with pooling of own keys."""
    for level, heads, size in LEVELS[family]:
        side = pixels // 8 >> level
        grid = (side, side)
        tile = _core.tile_shape(grid, TILE >> level)
        if tile == grid:
            continue
        offset = tuple(
            (tiles * size - side) // 2
            for tiles, size in zip(Tiling(grid, tile).tiles, tile, strict=True)
        )
        for stride in ((1, 1), (2, 2)):
            yield Site(family, pixels, heads, size, Tiling(grid, tile, offset), stride)


def gather(tokens: Tensor, tiling: Tiling) -> Tensor:
    """Pad a grid (B, h * w, C) and cut it: (B * tiles, tokens of a tile, C)."""
    (h, w), (th, tw), (oy, ox) = tiling.grid, tiling.tile, tiling.offset
    ty, tx = tiling.tiles
    field = tokens.view(tokens.shape[0], h, w, -1)
    field = F.pad(field, (0, 0, ox, tx * tw - w - ox, oy, ty * th - h - oy))
    field = field.view(-1, ty, th, tx, tw, field.shape[3]).transpose(2, 3)
    return field.reshape(-1, th * tw, tokens.shape[2])


def scatter(tiles: Tensor, tiling: Tiling) -> Tensor:
    """Undo :func:`gather`."""
    (h, w), (th, tw), (oy, ox) = tiling.grid, tiling.tile, tiling.offset
    ty, tx = tiling.tiles
    field = tiles.view(-1, ty, tx, th, tw, tiles.shape[2]).transpose(2, 3)
    field = field.reshape(-1, ty * th, tx * tw, tiles.shape[2])
    return field[:, oy : oy + h, ox : ox + w].reshape(-1, h * w, tiles.shape[2])


def attention_calls(site: Site, dtype: torch.dtype) -> list[Callable[[], Tensor]]:
    """Ours, gathered, full: each a call without arguments, of tokens as hosts hand them over."""
    generator = torch.Generator().manual_seed(0)
    tiling, channels = site.tiling, site.heads * site.size
    tokens = math.prod(tiling.grid)
    q, k, v = (
        torch.randn(BATCH, tokens, channels, generator=generator).to(dtype) for _ in range(3)
    )
    pooled = site.stride != (1, 1)

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(2, (site.heads, site.size)).transpose(1, 2)

    def shared(x: Tensor) -> Tensor:
        return pool_tokens(x, tiling.grid, site.shared_stride, site.shared_stride, "avg", [0.0])[0]

    shared_k, shared_v = shared(k), shared(v)
    if pooled:
        own_k, own_v = (pool_tokens(x, tiling, site.stride, site.stride)[0] for x in (k, v))
    else:
        own_k, own_v = k, v

    def own_tiles(x: Tensor) -> Tensor:
        x = gather(x, tiling)
        if not pooled:
            return x
        return pool_tokens(x, tiling.tile, site.stride, site.stride)[0]

    # What the reference has at hand are k and v as projected from its own tiles.
    tiles_k, tiles_v = own_tiles(k), own_tiles(v)

    def ours() -> Tensor:
        stride = site.stride if pooled else ()
        out = tile_attention(
            heads(q), heads(own_k), heads(own_v), tiling, stride, heads(shared_k), heads(shared_v)
        )
        return out.transpose(1, 2).flatten(2)

    def gathered() -> Tensor:
        count = math.prod(tiling.tiles)
        far = [x.repeat_interleave(count, dim=0) for x in (shared_k, shared_v)]
        own = (tiles_k, tiles_v) if pooled else (gather(k, tiling), gather(v, tiling))
        keys, values = (torch.cat(pair, dim=1) for pair in zip(own, far, strict=True))
        out = F.scaled_dot_product_attention(heads(gather(q, tiling)), heads(keys), heads(values))
        return scatter(out.transpose(1, 2).flatten(2), tiling)

    def full() -> Tensor:
        return F.scaled_dot_product_attention(heads(q), heads(k), heads(v))

    return [ours, gathered, full]


def pool_calls(site: Site, dtype: torch.dtype, mode: str) -> list[Callable[[], list[Tensor]]]:
    """Ours and torch's own pooling with two blends."""
    grid, window = site.tiling.grid, (3, 2)
    x = torch.randn(BATCH, math.prod(grid), site.heads * site.size).to(dtype)
    blends = [0.3, 0.7]
    pool = F.avg_pool2d if mode == "avg" else F.max_pool2d

    def composed() -> list[Tensor]:
        image = x.transpose(1, 2).unflatten(2, grid)
        one = image[:, :, :: window[0], :: window[1]]
        results = []
        for blend in blends:
            pooled = pool(image, window, window, ceil_mode=True)
            results.append(torch.lerp(one, pooled, blend).flatten(2).transpose(1, 2))
        return results

    return [lambda: pool_tokens(x, grid, window, window, mode, blends), composed]


def multiply_adds(site: Site) -> float:
    """Of both products of all tiles, in tokens on average."""
    tokens = math.prod(site.tiling.grid)
    own = tokens / math.prod(site.tiling.tiles) / math.prod(site.stride)
    shared = tokens / math.prod(site.shared_stride)
    return 2.0 * BATCH * tokens * site.heads * site.size * (own + shared)


def compare_tiles(measuring: Measuring, wanted: list[Site]) -> None:
    """Print the table of tile_attention."""
    args, full = measuring.args, () if measuring.args.no_full else ("/full",)
    table = measuring.table(
        "tile_attention",
        ("model", "pixels", "grid", "heads x size", "tile", "own keys", "shared keys"),
        ("ours, ms", "/gathered", *full, "of peak"),
    )
    for site in tqdm(wanted, desc="sites", leave=False):
        calls = attention_calls(site, getattr(torch, args.dtype))
        ours, *others = measure(calls[: 2 + len(full)], args.rounds, args.seconds)
        h, w = site.tiling.grid
        down, across = site.shared_stride
        keys = (
            site.family,
            site.pixels,
            f"{h} x {w}",
            f"{site.heads} x {site.size}",
            "{} x {}".format(*site.tiling.tile),
            "of the tile" if site.stride == (1, 1) else "pooled {} x {}".format(*site.stride),
            math.ceil(h / down) * math.ceil(w / across),
        )
        share = measuring.share_of_peak(multiply_adds(site), ours)
        ratios = (ratio(other, ours) for other in others)
        table.add(keys, (milliseconds(ours), *ratios, share))


def compare_pools(measuring: Measuring, wanted: list[Site]) -> None:
    """Print the table of pool_tokens."""
    args = measuring.args
    table = measuring.table(
        "pool_tokens",
        ("model", "pixels", "grid", "channels", "mode"),
        ("ours, ms", "/torch", "of the copy rate"),
    )
    for site in tqdm([site for site in wanted if site.stride == (1, 1)], leave=False):
        for mode in ("avg", "max"):
            dtype = getattr(torch, args.dtype)
            calls = pool_calls(site, dtype, mode)
            channels = site.heads * site.size
            read = BATCH * math.prod(site.tiling.grid) * channels
            written = sum(result.numel() for result in calls[0]())
            ours, other, copied = measure(
                [*calls, copying(read + written, dtype)], args.rounds, args.seconds
            )
            grid = "{} x {}".format(*site.tiling.grid)
            table.add(
                (site.family, site.pixels, grid, channels, mode),
                (milliseconds(ours), ratio(other, ours), ratio(copied, ours)),
            )


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--size", type=int, nargs="+", default=[512, 768, 1024])
    parser.add_argument("--no-full", action="store_true", help="leave out the whole grid's SDPA")
    return parser.parse_args()


@torch.no_grad()
def main() -> None:
    """Print the tables."""
    args = arguments()
    torch.set_num_threads(args.threads)
    wanted = [s for family in LEVELS for size in args.size for s in sites(family, size)]
    with Measuring(args, f"batch {BATCH}").running() as measuring:
        compare_tiles(measuring, wanted)
        compare_pools(measuring, wanted)


if __name__ == "__main__":
    main()
