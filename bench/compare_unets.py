# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Speed of whole UNets with fewer tokens in their self-attention, against the plain UNet.

UNets of SD1.5's and SDXL's structure and full width with random weights, by diffusers, at the time
at which Slothful and Near-sighted attention are strongest but a little; their parameters are the
defaults. With a checkout of ComfyUI the UNets are ComfyUI's; with one of the public pack
comfyui_slothful_attention as well, that runs in the same process, reducing as much as ours does.
All calls take turns block by block. A UNet's time is that of its own self-attention, without the
projections of queries and output, and of all the rest, the median of all calls. A speed is the
median over the rounds of the plain UNet's time over the patched one's, less 1: above 0 we are
faster than the plain UNet. The second table is of self-attention alone, without the projections of
keys and values either: the plain UNet's time over ours, and the pack's over ours.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from compare_token_reduction import row
from lockstep import SelfAttention, Times, run
from torch import Tensor, nn
from wide_models import (
    CONTEXT,
    MULTIPLIERS,
    WIDTH,
    apply_node,
    comfyui_model,
    depths,
    fill,
    load_comfyui,
    load_slothful,
)

import attnpatch as ap
from attnpatch import _core

Calls = dict[str, Callable[[], Tensor]]

PATCHES: dict[str, ap.PatchStack] = {
    "SlothfulAttention": ap.PatchStack(ap.SlothfulAttention()),
    "NearSightedTile": ap.PatchStack(ap.NearSightedTile()),
    "NearSightedAttention": ap.PatchStack(ap.NearSightedAttention()),
    "TokenMerging": ap.PatchStack(ap.TokenMerging()),
    "HyperTile": ap.PatchStack(ap.HyperTile()),
}
# The pack takes the strength of input blocks for output blocks, and the other way round.
PACK_INPUTS = {"SlothfulAttention": {"in_slothful": 4.0, "out_slothful": 6.0}}
PERCENT = 0.5


def diffusers_calls(
    family: str, batch: int, side: int, names: list[str], short: bool
) -> tuple[Calls, list[nn.Module]]:
    """Make calls of diffusers' UNet, plain and with each of our patches; and the UNets."""
    from diffusers import UNet2DConditionModel

    levels = depths(family, short)
    config: dict[str, Any] = {
        "block_out_channels": [WIDTH * n for n in MULTIPLIERS[family]],
        "layers_per_block": 1 if short else 2,
        "cross_attention_dim": CONTEXT[family],
        "transformer_layers_per_block": [max(1, n) for n in levels],
        "down_block_types": ["CrossAttnDownBlock2D" if n else "DownBlock2D" for n in levels],
        "up_block_types": ["CrossAttnUpBlock2D" if n else "UpBlock2D" for n in levels[::-1]],
        "attention_head_dim": 8 if family == "sd1" else [5, 10, 20],
    }
    more: dict[str, Any] = {}
    if family == "sdxl":
        config |= {
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        }
        more["added_cond_kwargs"] = {
            "text_embeds": torch.zeros(batch, 1280),
            "time_ids": torch.zeros(batch, 6),
        }
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    unet = unet.to_empty(device="cpu").eval().requires_grad_(False)
    fill(unet)
    inputs = {
        "sample": torch.randn(batch, 4, side, side),
        "timestep": torch.tensor(round((1 - PERCENT) * 999)),
        "encoder_hidden_states": torch.randn(batch, 77, CONTEXT[family]),
        **more,
    }
    chunks = (1, 0) if batch % 2 == 0 else (0,)
    models = {"plain": unet}
    for name in names:
        models[f"ours {name}"] = ap.patch_model(unet, PATCHES[name], cond_or_uncond=chunks)
    calls: Calls = {name: lambda m=model: m(**inputs).sample for name, model in models.items()}
    return calls, list(models.values())


def comfyui_calls(
    family: str, batch: int, side: int, names: list[str], short: bool, pack: dict[str, type]
) -> tuple[Calls, list[nn.Module]]:
    """Make calls of ComfyUI's UNet, plain, with our patches and the pack's nodes; and the UNet."""
    patcher = comfyui_model(family, short)
    model = patcher.model
    sigma = torch.tensor(model.model_sampling.percent_to_sigma(PERCENT)).expand(batch)
    x = torch.randn(batch, 4, side, side) * sigma[0]
    context = torch.randn(batch, 77, CONTEXT[family])
    more = {"y": torch.zeros(batch, 2816)} if family == "sdxl" else {}
    chunks = [1, 0] if batch % 2 == 0 else [0]

    def call(patched: Any) -> Tensor:
        options = patched.model_options["transformer_options"].copy()
        options |= {"cond_or_uncond": chunks, "sigmas": sigma}
        return model.apply_model(x, sigma, c_crossattn=context, transformer_options=options, **more)

    models = {"plain": patcher}
    for name in names:
        models[f"ours {name}"] = ap.patch_model(patcher, PATCHES[name])
        if name in pack:
            models[f"pack {name}"] = apply_node(pack[name], patcher, PACK_INPUTS.get(name, {}))
    return {name: lambda m=m: call(m) for name, m in models.items()}, [model.diffusion_model]


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", choices=list(CONTEXT), default=list(CONTEXT))
    parser.add_argument("--latent", type=int, nargs="+", default=[64, 96, 128], help="its side")
    parser.add_argument("--patch", nargs="+", choices=list(PATCHES), default=list(PATCHES)[:3])
    parser.add_argument("--batch", type=int, default=2, help="2: cond and uncond together")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--short", action="store_true", help="one residual block a level, a fifth of SDXL's depth"
    )
    parser.add_argument(
        "--cpu-time", action="store_true", help="one thread and its CPU time, for a busy machine"
    )
    parser.add_argument("--comfyui", type=Path, help="a checkout of ComfyUI")
    parser.add_argument("--pack", type=Path, help="one of comfyui_slothful_attention, beside it")
    return parser.parse_args()


def side_of(block: str) -> str:
    """Tell input, middle and output blocks, as either host names them."""
    words = {"in": "input", "do": "input", "mi": "middle"}
    return words.get(block[:2], "output")


def kind_of(site: SelfAttention) -> tuple[str, int, int, int]:
    """Tell what sites of one kind have in common."""
    return side_of(site.block), site.tokens, site.heads, site.channels // site.heads


def seconds(times: list[Times], kind: tuple[str, int, int, int]) -> list[float]:
    """Of the self-attentions of a kind in each round, without projections."""
    return [sum(s.seconds - s.projections for s in t.sites if kind_of(s) == kind) for t in times]


def over(these: list[float], those: list[float]) -> float:
    """Median of the ratios in the same round."""
    return statistics.median(a / b for a, b in zip(these, those, strict=True))


def site_rows(family: str, side: int, names: list[str], rounds: dict[str, list[Times]]) -> None:
    """Print self-attention alone, for each kind of site."""
    plain = rounds["plain"]
    for kind in dict.fromkeys(map(kind_of, plain[0].sites)):
        block, tokens, heads, size = kind
        usual = seconds(plain, kind)
        count = sum(kind_of(site) == kind for site in plain[0].sites)
        cells = []
        for name in names:
            ours = seconds(rounds[f"ours {name}"], kind)
            cells.append(f"{over(usual, ours):.2f}")
            if f"pack {name}" in rounds:
                cells[-1] += f", {over(seconds(rounds[f'pack {name}'], kind), ours):.2f}"
        each = f"{1e3 * statistics.median(usual) / count:.0f}"
        where = family, f"{side} x {side}", f"{count} {block}", tokens, f"{heads} x {size}"
        print(row(*where, each, *cells), flush=True)


def speed_rows(family: str, side: int, names: list[str], rounds: dict[str, list[Times]]) -> None:
    """Print whole UNets."""
    # The rest of the UNet is the same in all calls, and so is its time, but for disturbances.
    rest = [
        statistics.median(t.seconds - t.attention for t in times)
        for times in zip(*rounds.values(), strict=True)
    ]
    whole = {
        name: [r + t.attention for r, t in zip(rest, times, strict=True)]
        for name, times in rounds.items()
    }
    plain = whole["plain"]
    for name in names:
        found = [whole[f"{who} {name}"] for who in ("ours", "pack") if f"{who} {name}" in whole]
        cells = [f"{100 * (over(plain, times) - 1):+.0f} %" for times in found]
        where = family, f"{side} x {side}", f"{statistics.median(plain):.1f}", name
        print(row(*where, *cells), flush=True)


@torch.inference_mode()
def main() -> None:
    """Print the tables."""
    args = arguments()
    threads, clock = (1, time.process_time) if args.cpu_time else (args.threads, time.perf_counter)
    torch.set_num_threads(threads)
    pack = load_slothful(args.pack) if args.pack else {}
    if args.comfyui:
        load_comfyui(args.comfyui)
    print(
        f"float32, {threads} threads, {_core.cpu_targets()[0]}, torch {torch.__version__}, "
        f"batch {args.batch}, {'ComfyUI' if args.comfyui else 'diffusers'}"
        f"{', one residual block a level' if args.short else ''}"
        f"{', CPU time' if args.cpu_time else ''}\n"
    )
    others = ["the pack"] if pack else []
    print(row("model", "latent", "plain, s", "patch", "ours", *others))
    print(row(*["---"] * (5 + len(others))), flush=True)
    found = {}
    for family in args.model:
        for side in args.latent:
            shape = family, args.batch, side, args.patch, args.short
            made = comfyui_calls(*shape, pack) if args.comfyui else diffusers_calls(*shape)
            results = [run(*made, clock) for _ in range(args.rounds)]
            found[family, side] = {name: [r[name] for r in results] for name in made[0]}
            speed_rows(family, side, args.patch, found[family, side])
    heads = "model", "latent", "sites", "tokens", "heads x size", "plain, ms", *args.patch
    print("\n" + row(*heads) + "\n" + row(*["---"] * len(heads)))
    for (family, side), rounds in found.items():
        site_rows(family, side, args.patch, rounds)


if __name__ == "__main__":
    main()
