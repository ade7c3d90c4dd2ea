# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Speed of branch_attention against what a user would otherwise run, as ratios.

For every distinct cross-attention site of SD1.5 and SDXL at 512, 768 and 1024 pixels, batch 2 (cond
and uncond), 77 text tokens, all in one process and interleaved round by round:

- composed: torch's SDPA on the text, one more for each image branch, their weighted sum;
- all keys: one SDPA over text and image tokens together (other mathematics, the same arithmetic);
- text: one SDPA on the text alone, what the plain model runs.

A ratio is the other's time over ours: above 1 we are faster. Each is the median over the rounds.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from measuring import Measuring, add_arguments, measure, milliseconds, ratio
from torch import Tensor
from tqdm import tqdm

from attnpatch.engine import layer_table, token_grid
from attnpatch.ops.branch_attention import branch_attention_flat

BATCH = 2
TEXT_TOKENS = 77
WEIGHT = 0.8
HEADS = {"sd1": lambda channels: 8, "sdxl": lambda channels: channels // 64}
NAMES = {"sd1": "SD1.5", "sdxl": "SDXL"}


@dataclass(frozen=True)
class Site:
    """A kind of cross-attention layer, and how many the model has of it."""

    family: str
    pixels: int
    tokens: int
    channels: int
    count: int

    @property
    def heads(self) -> int:
        """Heads of the layer."""
        return HEADS[self.family](self.channels)


def sites(family: str, pixels: int) -> Iterator[Site]:
    """Distinct cross-attention sites of a model family at a picture size."""
    counts: Counter[tuple[int, int]] = Counter()
    for layer in layer_table(family):
        height, width = token_grid(pixels // 8, pixels // 8, layer.level)
        counts[height * width, layer.channels] += 1
    for (tokens, channels), count in sorted(counts.items(), reverse=True):
        yield Site(family, pixels, tokens, channels, count)


def variants(site: Site, branches: list[int], dtype: torch.dtype) -> list[Callable[[], Tensor]]:
    """Ours, composed, all keys, text: each a call without arguments."""
    generator = torch.Generator().manual_seed(0)

    def heads_of(tokens: int) -> Tensor:
        flat = torch.randn(BATCH, tokens, site.channels, generator=generator).to(dtype)
        return flat.view(BATCH, tokens, site.heads, -1).transpose(1, 2)

    q, k, v = heads_of(site.tokens), heads_of(TEXT_TOKENS), heads_of(TEXT_TOKENS)
    image_k, image_v = [heads_of(m) for m in branches], [heads_of(m) for m in branches]
    rows = [torch.arange(BATCH)] * len(branches)
    weights = torch.full((len(branches), BATCH), WEIGHT)
    all_k, all_v = torch.cat([k, *image_k], dim=2), torch.cat([v, *image_v], dim=2)

    def composed() -> Tensor:
        out = F.scaled_dot_product_attention(q, k, v)
        for branch_k, branch_v in zip(image_k, image_v, strict=True):
            out = out + WEIGHT * F.scaled_dot_product_attention(q, branch_k, branch_v)
        return out

    return [
        lambda: branch_attention_flat(q, k, v, image_k, image_v, rows, weights),
        composed,
        lambda: F.scaled_dot_product_attention(q, all_k, all_v),
        lambda: F.scaled_dot_product_attention(q, k, v),
    ]


def multiply_adds(site: Site, branches: list[int]) -> int:
    """Of both products of a call."""
    return 2 * BATCH * site.tokens * site.channels * (TEXT_TOKENS + sum(branches))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--branches", type=int, nargs="+", default=[16], help="tokens of each")
    parser.add_argument("--size", type=int, nargs="+", default=[512, 768, 1024])
    return parser.parse_args()


def main() -> None:
    """Print the table."""
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    wanted = [s for family in NAMES for size in args.size for s in sites(family, size)]
    note = f"batch {BATCH}, {TEXT_TOKENS} text tokens, image tokens {args.branches}"
    with Measuring(args, note).running() as measuring:
        keys = ("model", "pixels", "tokens", "heads x size", "sites")
        table = measuring.table(
            "branch_attention", keys, ("ours, ms", "/composed", "/all keys", "/text", "of peak")
        )
        totals: dict[tuple[str, int], list[float]] = {}
        for site in tqdm(wanted, desc="sites", leave=False):
            calls = variants(site, args.branches, getattr(torch, args.dtype))
            times = measure(calls, args.rounds, args.seconds)
            ours, *others = times
            total = totals.setdefault((site.family, site.pixels), [0.0] * 4)
            for i, of_call in enumerate(times):
                total[i] += site.count * milliseconds(of_call)
            heads = f"{site.heads} x {site.channels // site.heads}"
            share = measuring.share_of_peak(multiply_adds(site, args.branches), ours)
            table.add(
                (NAMES[site.family], site.pixels, site.tokens, heads, site.count),
                (milliseconds(ours), *(ratio(other, ours) for other in others), share),
            )
        table = measuring.table(
            "whole models", ("model", "pixels"), ("ours, ms", "/composed", "/all keys", "/text")
        )
        for (family, pixels), (ours_all, *others_all) in totals.items():
            ratios = [other / ours_all for other in others_all]
            table.add((NAMES[family], pixels), (ours_all, *ratios))


if __name__ == "__main__":
    main()
