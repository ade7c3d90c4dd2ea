# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Speed and memory of self-attention guidance's operators against what one would otherwise run.

attention_column_mean, at the middle block's self-attention of SD1.5 and SDXL, batch 2 (cond and
uncond), all in one process and interleaved round by round:

- SDPA: torch's attention, which records nothing;
- map: softmax(q k) as a tensor, its product with v, and its column means.

blur_and_blend, sigma 2, on latents of four channels under a mask on a grid an eighth as wide:

- composed: reflect padding, a depthwise convolution of 9 x 9, the mask upsampled, the blend;
  contiguous and channels last;
- of the copy rate: the share that it reaches of the rate of a copy, reading and writing as much.

A ratio is the other's time over ours: above 1 we are faster. Each is the median over the rounds.
Memory is what a call's peak adds to a fresh process, its results included (Linux; elsewhere nan).
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
from collections.abc import Callable

import torch
import torch.nn.functional as F
from measuring import Measuring, add_arguments, copying, measure, milliseconds, peak_of, ratio
from torch import Tensor
from tqdm import tqdm

from attnpatch.ops import attention_column_mean, blur_and_blend

BATCH = 2
# Heads, head size, and the latent's side over that of the token grid.
MIDDLE = {"SD1.5": (8, 160, 8), "SDXL": (20, 64, 4)}
LATENTS = ((1, 64), (2, 96), (1, 128), (4, 128), (2, 256))


def attention_calls(tokens: int, heads: int, size: int, dtype: torch.dtype) -> list[Callable]:
    """Ours with one row recorded and with both, SDPA, map: each a call without arguments."""
    generator = torch.Generator().manual_seed(0)
    flat = (torch.randn(BATCH, tokens, heads * size, generator=generator) for _ in range(3))
    q, k, v = (t.to(dtype).unflatten(2, (heads, size)).transpose(1, 2) for t in flat)

    def with_map() -> tuple[Tensor, Tensor]:
        attention_map = (q @ k.transpose(2, 3) * size**-0.5).softmax(dim=3)
        return attention_map @ v, attention_map.mean(dim=1).sum(dim=1)

    return [
        lambda: attention_column_mean(q, k, v, [0]),
        lambda: attention_column_mean(q, k, v),
        lambda: F.scaled_dot_product_attention(q, k, v),
        with_map,
    ]


def blur_calls(
    batch: int, side: int, dtype: torch.dtype, layout: torch.memory_format
) -> list[Callable[[], Tensor]]:
    """Ours and composed."""
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(batch, 4, side, side, generator=generator).to(dtype, memory_format=layout)
    saliency = 2 * torch.rand(batch, side // 8, side // 8, generator=generator)
    taps = torch.exp(-0.5 * (torch.arange(-4.0, 5.0) / 2.0) ** 2)
    kernel = (torch.outer(taps, taps) / taps.sum() ** 2).to(dtype).expand(4, 1, 9, 9)

    def composed() -> Tensor:
        blurred = F.conv2d(F.pad(x0, (4, 4, 4, 4), mode="reflect"), kernel, groups=4)
        mask = F.interpolate((saliency > 1.0)[:, None].to(dtype), x0.shape[2:])
        return blurred * mask + x0 * (1 - mask)

    return [lambda: blur_and_blend(x0, saliency, 2.0), composed]


def peak_mib(call: int, tokens: int, heads: int, size: int, dtype: torch.dtype) -> float:
    """MiB that one of the attention calls adds to a process at its peak; for a fresh process."""
    torch.set_grad_enabled(False)
    attention_calls(16, heads, size, dtype)[call]()  # what libraries keep for themselves
    return peak_of(attention_calls(tokens, heads, size, dtype)[call])


def compare_attention(measuring: Measuring) -> None:
    """Print the table of attention_column_mean."""
    args, dtype = measuring.args, getattr(torch, measuring.args.dtype)
    table = measuring.table(
        "attention_column_mean",
        ("model", "pixels", "tokens", "heads x size"),
        (
            "ours (one row), ms",
            "/SDPA",
            "/SDPA, both rows",
            "/map, both rows",
            "of peak",
            "ours, MiB",
            "SDPA, MiB",
            "map, MiB",
        ),
    )
    sites = [(family, pixels) for family in MIDDLE for pixels in args.size]
    for family, pixels in tqdm(sites, desc="sites", leave=False):
        heads, size, factor = MIDDLE[family]
        tokens = math.ceil(pixels / 8 / factor) ** 2
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            works = [(call, tokens, heads, size, dtype) for call in (1, 2, 3)]
            memory = pool.starmap(peak_mib, works, chunksize=1)
        calls = attention_calls(tokens, heads, size, dtype)
        one, both, sdpa, with_map = measure(calls, args.rounds, args.seconds)
        share = measuring.share_of_peak(2 * BATCH * heads * size * tokens**2, one)
        ratios = (ratio(sdpa, one), ratio(sdpa, both), ratio(with_map, both))
        table.add(
            (family, pixels, tokens, f"{heads} x {size}"),
            (milliseconds(one), *ratios, share, *memory),
        )


def compare_blur(measuring: Measuring) -> None:
    """Print the table of blur_and_blend."""
    args, dtype = measuring.args, getattr(torch, measuring.args.dtype)
    figures_of = ("ours, ms", "/composed", "of the copy rate")
    names = (*figures_of, *(f"channels last: {name}" for name in figures_of))
    table = measuring.table("blur_and_blend", ("latent",), names)
    for batch, side in tqdm(LATENTS, desc="latents", leave=False):
        figures: list[float] = []
        for layout in (torch.contiguous_format, torch.channels_last):
            calls = blur_calls(batch, side, dtype, layout)
            copy = copying(2 * batch * 4 * side * side, dtype)
            ours, composed, copied = measure([*calls, copy], args.rounds, args.seconds)
            figures += [milliseconds(ours), ratio(composed, ours), ratio(copied, ours)]
        table.add((f"{batch} x 4 x {side} x {side}",), figures)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--size", type=int, nargs="+", default=[512, 768, 1024, 2048])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    with Measuring(args, f"batch {BATCH}").running() as measuring:
        compare_attention(measuring)
        compare_blur(measuring)


if __name__ == "__main__":
    main()
