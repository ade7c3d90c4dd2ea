# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Speed of whole UNets with fewer tokens in their self-attention, against the plain UNet.

UNets of SD1.5's and SDXL's structure and full width with random weights, by diffusers, at the time
at which Slothful and Near-sighted attention are strongest but a little; their parameters are the
defaults. With a checkout of ComfyUI the UNets are ComfyUI's; with one of the public pack
comfyui_slothful_attention as well, that runs in the same process, reducing as much as ours does.
All calls take turns block by block. A UNet's time is that of its own self-attention, without the
projections of queries and output, and of all the rest, the median of all calls. Ratios are medians
over the rounds: "/plain" is the plain UNet's time over ours, "/pack" the pack's over ours. The
second table is of self-attention alone, without the projections of keys and values either.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lockstep import SelfAttention, Times, run
from measuring import Measuring, Table, add_arguments, milliseconds, ratio
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
    add_arguments(parser, rounds=3)
    parser.add_argument("--model", nargs="+", choices=list(CONTEXT), default=list(CONTEXT))
    parser.add_argument("--latent", type=int, nargs="+", default=[64, 96, 128], help="its side")
    parser.add_argument("--patch", nargs="+", choices=list(PATCHES), default=list(PATCHES)[:3])
    parser.add_argument("--batch", type=int, default=2, help="2: cond and uncond together")
    parser.add_argument(
        "--short", action="store_true", help="one residual block a level, a fifth of SDXL's depth"
    )
    parser.add_argument(
        "--cpu-time", action="store_true", help="one thread and its CPU time, for a busy machine"
    )
    parser.add_argument("--comfyui", type=Path, help="a checkout of ComfyUI")
    parser.add_argument("--pack", type=Path, help="one of comfyui_slothful_attention, beside it")
    args = parser.parse_args()
    if args.dtype != "float32":
        parser.error(f"--dtype: expected float32, got {args.dtype}")
    if args.cpu_time:
        args.threads = 1
    return args


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


def others_of(rounds: dict[str, list[Times]], name: str) -> dict[str, str]:
    """Give the calls that ours is compared with, by the names of the ratios."""
    calls = {"/plain": "plain", "/pack": f"pack {name}"}
    return {figure: call for figure, call in calls.items() if call in rounds}


def add_sites(table: Table, where: tuple[str, str], rounds: dict[str, list[Times]]) -> None:
    """Add self-attention alone, for each kind of site."""
    sites = rounds["plain"][0].sites
    for kind in dict.fromkeys(map(kind_of, sites)):
        block, tokens, heads, size = kind
        count = sum(kind_of(site) == kind for site in sites)
        each = milliseconds(seconds(rounds["plain"], kind)) / count
        for name in names_of(rounds):
            ours = seconds(rounds[f"ours {name}"], kind)
            calls = others_of(rounds, name).values()
            ratios = [ratio(seconds(rounds[call], kind), ours) for call in calls]
            keys = *where, name, f"{count} {block}", tokens, f"{heads} x {size}"
            table.add(keys, (each, *ratios))


def names_of(rounds: dict[str, list[Times]]) -> list[str]:
    """Give the names of the patches."""
    return [call.removeprefix("ours ") for call in rounds if call.startswith("ours ")]


def add_unets(table: Table, where: tuple[str, str], rounds: dict[str, list[Times]]) -> None:
    """Add whole UNets."""
    # The rest of the UNet is the same in all calls, and so is its time, but for disturbances.
    rest = [
        statistics.median(t.seconds - t.attention for t in times)
        for times in zip(*rounds.values(), strict=True)
    ]
    whole = {
        name: [r + t.attention for r, t in zip(rest, times, strict=True)]
        for name, times in rounds.items()
    }
    plain = statistics.median(whole["plain"])
    for name in names_of(rounds):
        calls = others_of(rounds, name).values()
        ratios = [ratio(whole[call], whole[f"ours {name}"]) for call in calls]
        table.add((*where, name), (plain, *ratios))


@torch.inference_mode()
def main() -> None:
    """Print the tables."""
    args = arguments()
    clock = time.process_time if args.cpu_time else time.perf_counter
    torch.set_num_threads(args.threads)
    pack = load_slothful(args.pack) if args.pack else {}
    if args.comfyui:
        load_comfyui(args.comfyui)
    notes = [f"batch {args.batch}", "ComfyUI" if args.comfyui else "diffusers"]
    notes += ["one residual block a level"] * args.short + ["CPU time"] * args.cpu_time
    ratios = ["/plain"] + ["/pack"] * bool(pack)
    found = {}
    with Measuring(args, *notes).running() as measuring:
        table = measuring.table("UNets", ("model", "latent", "patch"), ("plain, s", *ratios))
        for family in args.model:
            for side in args.latent:
                shape = family, args.batch, side, args.patch, args.short
                made = comfyui_calls(*shape, pack) if args.comfyui else diffusers_calls(*shape)
                results = [run(*made, clock) for _ in range(args.rounds)]
                where = family, f"{side} x {side}"
                found[where] = {name: [r[name] for r in results] for name in made[0]}
                add_unets(table, where, found[where])
        keys = "model", "latent", "patch", "sites", "tokens", "heads x size"
        table = measuring.table("self-attention alone", keys, ("plain, ms", *ratios))
        for where, rounds in found.items():
            add_sites(table, where, rounds)


if __name__ == "__main__":
    main()
