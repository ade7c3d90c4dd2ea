# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A sampling step of usual workflows in the real ComfyUI: ours against the public packs.

UNets of SD1.5's and SDXL's structure with random weights, cond and uncond in one batch, in the
middle of the sampling. Theirs are the packs ComfyUI_IPAdapter_plus, ComfyUI_InstantID (its patch;
both sides without its ControlNet) and comfyui_slothful_attention, and core's own nodes for
guidance; where two of them do not go together, as their users chain them. The keys by which the two
image packs miss the middle block are set right, so that they do the whole work. Both sides are in
one process and take turns block by block: first steps, which make the patches of an adapter's
tensors, and then, with the models so patched, others and a plain one. Where both should give the
same picture it is compared before anything is measured.

A figure is the median over the rounds: seconds of a plain step, and of ours, and theirs over ours,
of a step in the run and of the first one, with the patching. Memory is what a first step adds to
the process at its peak, beside what a plain one adds.

ATTNPATCH_COMFYUI, ATTNPATCH_IPADAPTER_PLUS, ATTNPATCH_INSTANTID and ATTNPATCH_SLOTHFUL name the
checkouts.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lockstep import run
from measuring import Measuring, add_arguments, milliseconds, peak_of, ratio
from torch import Tensor
from wide_models import WIDTH, load_comfyui
from workflows import WORKFLOWS, Bench, Patching, Workflow

TESTS = Path(__file__).parent.parent / "tests_py"
CHECKOUTS = [f"ATTNPATCH_{name}" for name in ("COMFYUI", "IPADAPTER_PLUS", "INSTANTID", "SLOTHFUL")]
NAMES = {"sd1": "SD1.5", "sdxl": "SDXL"}
SAME = 1e-3


def compare_pictures(name: str, ours: Tensor, theirs: Tensor, plain: Tensor) -> None:
    """Refuse to measure what does not do the same."""
    scale = float((theirs - plain).abs().max())
    difference = float((ours - theirs).abs().max()) / scale if scale else math.inf
    if not difference < SAME:
        raise SystemExit(f"{name}: ours and theirs differ by {difference:.1e} of the effect")


def made(patching: Patching, bench: Bench) -> Any:
    """Patch a model; the packs can not set weights in inference mode."""
    with torch.inference_mode(False), torch.no_grad():
        return patching(bench, bench.patcher)


def trim() -> None:
    """Give free memory back, so that the next peak is seen whole."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def memory(call: Callable[[], object]) -> float:
    """MiB that a call adds at its peak."""
    trim()
    with torch.inference_mode():
        return peak_of(call)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, rounds=3)
    parser.add_argument("--model", nargs="+", choices=list(NAMES), default=list(NAMES))
    parser.add_argument(
        "--pixels", type=int, nargs="+", help="default: 1024, for fewer tokens 1536 too"
    )
    parser.add_argument("--workflow", nargs="+", choices=list(WORKFLOWS), default=list(WORKFLOWS))
    parser.add_argument("--width", type=int, default=WIDTH, help="of the first level; full: 320")
    parser.add_argument(
        "--cpu-time", action="store_true", help="one thread and its CPU time, for a busy machine"
    )
    args = parser.parse_args()
    if args.dtype != "float32":
        parser.error(f"--dtype: expected float32, got {args.dtype}")
    missing = [name for name in CHECKOUTS if not Path(os.environ.get(name) or "-").is_dir()]
    if missing:
        parser.error(f"expected checkouts named by {', '.join(missing)}")
    if args.cpu_time:
        args.threads = 1
    return args


def main() -> None:
    """Print the table."""
    args = arguments()
    torch.set_num_threads(args.threads)
    clock = time.process_time if args.cpu_time else time.perf_counter
    load_comfyui(Path(os.environ["ATTNPATCH_COMFYUI"]))
    sys.path.insert(0, str(TESTS / "adapters"))
    notes = f"first level {args.width} channels", *["CPU time"] * args.cpu_time
    with Measuring(args, *notes).running() as measuring:
        table = measuring.table(
            "workflows",
            ("model", "pixels", "workflow"),
            ("plain, s", "ours, s", "/theirs", "/theirs, first", "ours, MiB", "theirs, MiB"),
        )
        for family in args.model:
            bench = Bench(family, args.width)
            for name in args.workflow:
                workflow = WORKFLOWS[name]
                if family not in workflow.families:
                    print(f"{NAMES[family]}, {name}: theirs do not go together", file=sys.stderr)
                    continue
                for pixels in args.pixels or workflow.pixels:
                    figures = figures_of(bench, name, workflow, pixels // 8, args.rounds, clock)
                    table.add((NAMES[family], pixels, name), figures)


def figures_of(
    bench: Bench,
    name: str,
    workflow: Workflow,
    side: int,
    rounds: int,
    clock: Callable[[], float],
) -> tuple[float, ...]:
    """Measure one workflow of one size."""
    import reference_pack

    step, plain = bench.step(side), bench.patcher
    models: dict[str, Any] = {}

    def first(who: str, patching: Patching) -> Tensor:
        models[who] = made(patching, bench)
        return step(models[who])

    firsts = {
        "ours first": lambda: first("ours", workflow.ours),
        "theirs first": lambda: first("theirs", workflow.theirs),
    }
    later = {
        "plain": lambda: step(plain),
        "ours": lambda: step(models["ours"]),
        "theirs": lambda: step(models["theirs"]),
    }
    unets = [plain.model.diffusion_model]
    found, beside, pictures = [], [], {}
    with reference_pack.middle_block(), torch.inference_mode():
        # The adapters' tensors, and what libraries keep for themselves, are made once.
        made(workflow.ours, bench)
        step(plain)
        usual = memory(later["plain"])
        for who, call in firsts.items():
            beside.append(memory(call) - usual)
            pictures[who] = later[who.split()[0]]()
            models.clear()  # the packs copy an adapter's tensors: one set of copies at a time
        if workflow.same:
            compare_pictures(name, *pictures.values(), step(plain))
        for _ in range(rounds):
            trim()  # what the packs make stays until Python looks for it
            found.append(run(firsts, unets, clock) | run(later, unets, clock))
            models.clear()
    times = {who: [results[who].seconds for results in found] for who in firsts | later}
    return (
        statistics.median(times["plain"]),
        milliseconds(times["ours"]) / 1e3,
        ratio(times["theirs"], times["ours"]),
        ratio(times["theirs first"], times["ours first"]),
        *beside,
    )


if __name__ == "__main__":
    main()
