# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Speed and memory of biased_attention against what one would otherwise run.

At the joint sequences of Flux.1 at 1024 pixels, 512 text tokens and 4,096 of the picture, without
and with a reference of as many: 4,608 and 8,704 tokens, 24 heads of 128, batch 1. Gains on the
last quarter of the keys for the picture's queries, and one key gone. All in one process, by turns:

- ours;
- SDPA: torch's attention without any bias;
- padded: `attnpatch.ops.plain.padded`, torch's attention, the result cut back;
- dense: torch's attention with the bias as a mask (batch 1, queries, keys), which is made anew in
  each call, as a call with other weights needs it.

A ratio is the other's time over ours: above 1 we are faster. Each is the median over the rounds.
Memory is what a call's peak adds to a fresh process, its result included (Linux; elsewhere nan).
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
from collections.abc import Callable

import torch
import torch.nn.functional as F
from measuring import Measuring, add_arguments, measure, milliseconds, peak_of, ratio
from torch import Tensor
from tqdm import tqdm

from attnpatch.ops import biased_attention, plain

HEADS, SIZE, TEXT = 24, 128, 512
NAMES = ("ours", "SDPA", "padded", "dense")


def calls(tokens: int, terms: int, dtype: torch.dtype) -> list[Callable[[], Tensor]]:
    """Each of the calls, without arguments."""
    generator = torch.Generator().manual_seed(0)
    flat = (torch.randn(1, tokens, HEADS * SIZE, generator=generator) for _ in range(3))
    q, k, v = (t.to(dtype).unflatten(2, (HEADS, SIZE)).transpose(1, 2) for t in flat)
    query_bias, key_bias = torch.zeros(1, tokens, terms), torch.zeros(1, tokens, terms)
    query_bias[:, min(TEXT, tokens // 2) :] = 1.0
    key_bias[:, tokens * 3 // 4 :] = torch.linspace(-0.7, 0.7, terms + 1)[1:]
    key_bias[:, 0, 0] = -math.inf

    def dense() -> Tensor:
        products = query_bias[:, :, None] * key_bias.nan_to_num(neginf=-1e30)[:, None]
        return F.scaled_dot_product_attention(q, k, v, products.sum(dim=3).to(dtype)[:, None])

    return [
        lambda: biased_attention(q, k, v, query_bias, key_bias),
        lambda: F.scaled_dot_product_attention(q, k, v),
        lambda: plain.biased_attention(q, k, v, query_bias, key_bias),
        dense,
    ]


def peak_mib(call: int, tokens: int, terms: int, dtype: torch.dtype) -> float:
    """MiB that one of the calls adds to a process at its peak; for a fresh process."""
    torch.set_grad_enabled(False)
    calls(16, terms, dtype)[call]()  # what libraries keep for themselves
    return peak_of(calls(tokens, terms, dtype)[call])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, rounds=5)
    parser.add_argument("--tokens", type=int, nargs="+", default=[4608, 8704])
    parser.add_argument("--terms", type=int, nargs="+", default=[1, 4])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    dtype = getattr(torch, args.dtype)
    figures = ["SDPA, ms", "/SDPA", "/padded", "/dense", "of peak"]
    figures += ["ours, MiB", "padded, MiB", "dense, MiB"]
    with Measuring(args, f"{HEADS} heads of {SIZE}").running() as measuring:
        table = measuring.table("biased_attention", ("tokens", "terms"), figures)
        sites = [(tokens, terms) for tokens in args.tokens for terms in args.terms]
        for tokens, terms in tqdm(sites, desc="sites", leave=False):
            with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
                works = [(call, tokens, terms, dtype) for call in (0, 2, 3)]
                memory = pool.starmap(peak_mib, works, chunksize=1)
            times = dict(
                zip(NAMES, measure(calls(tokens, terms, dtype), args.rounds, 0.0), strict=True)
            )
            ours, sdpa = times["ours"], times["SDPA"]
            others = [ratio(times[name], ours) for name in ("SDPA", "padded", "dense")]
            share = measuring.share_of_peak(2 * HEADS * SIZE * tokens**2, ours)
            table.add((tokens, terms), (milliseconds(sdpa), *others, share, *memory))


if __name__ == "__main__":
    main()
