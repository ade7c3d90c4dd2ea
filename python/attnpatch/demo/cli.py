# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""`attnpatch demo`: its arguments, and what it does."""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attnpatch.demo.runner import Outcome

DEFAULT_OUTPUT = Path("out/demo.png")
# The first item of each of four classes among the test items that the package carries.
DEFAULT_ITEMS = (0, 1, 13, 18)
ITEMS = range(200)
# Few steps are best for the small model: more add up the errors of guidance.
EMBEDDED_STEPS, OWN_STEPS = 10, 25
DTYPES = ("float32", "float16", "bfloat16")
# What an own model alone heeds, with what it takes where nothing is given.
OF_OWN: dict[str, object] = {
    "image_encoder": None,
    "prompt": "best quality, high quality",
    "guidance": 5.0,
    "size": None,
    "device": "cpu",
    "dtype": None,
}

logger = logging.getLogger("attnpatch")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the demo's arguments to a parser."""
    parser.description = (
        "Generate pictures without and with image prompts, and write a contact sheet. Without "
        "--model it runs the small model in the package, on Fashion-MNIST test items."
    )
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="the sheet, a PNG")
    parser.add_argument("--weight", type=float, nargs="+", help="weights of the image prompt")
    parser.add_argument("--steps", type=int, help="default: 10, with --model 25")
    parser.add_argument("--seed", type=int, default=0)
    embedded = parser.add_argument_group("the model in the package")
    embedded.add_argument(
        "--item",
        type=int,
        nargs="+",
        default=list(DEFAULT_ITEMS),
        help=f"test items, 0 to {ITEMS[-1]}",
    )
    own = parser.add_argument_group("your own model (all three of the first are needed)")
    own.add_argument("--model", help="SD1.5, SD2 or SDXL: a file, a diffusers folder or a model ID")
    own.add_argument("--adapter", help="an IP-Adapter, .safetensors or .bin")
    own.add_argument("--image", nargs="+", help="reference pictures")
    own.add_argument("--image-encoder", help="CLIP vision model: a folder or a model ID")
    own.add_argument("--prompt", help=f"default: {OF_OWN['prompt']}")
    own.add_argument("--guidance", type=float, help=f"default: {OF_OWN['guidance']}")
    own.add_argument("--size", type=int, help="edge of the pictures, a multiple of 8")
    own.add_argument("--device", help=f"default: {OF_OWN['device']}")
    own.add_argument("--dtype", choices=DTYPES, help="default: float32 on a CPU, else float16")


def run(args: argparse.Namespace) -> int:
    """Run the demo.

    Returns
    -------
    int
        0; 1 when the image prompt had no effect; 2 for arguments that do not fit together.
    """
    if args.steps is None:
        args.steps = OWN_STEPS if args.model else EMBEDDED_STEPS
    from attnpatch.demo.output import check_output

    try:
        check(args)
        check_output(args.output)
        print("Loading the model", file=sys.stderr, flush=True)
        outcomes = _run_own(args) if args.model else _run_embedded(args)
    except (ValueError, OSError) as error:
        print(f"attnpatch demo: {error}", file=sys.stderr)
        return 2
    from attnpatch.demo.report import had_effect, make_table

    print(make_table(outcomes))
    print(f"Contact sheet: {args.output}")
    if had_effect(outcomes):
        return 0
    print("attnpatch demo: the image prompt had no effect", file=sys.stderr)
    return 1


def check(args: argparse.Namespace) -> None:
    """Check what the parser cannot.

    Raises
    ------
    ValueError
        Naming the argument.
    """
    own = {"--model": args.model, "--adapter": args.adapter, "--image": args.image}
    missing = [name for name, value in own.items() if not value]
    if 0 < len(missing) < len(own):
        raise ValueError(f"{', '.join(missing)}: needed with the others of {', '.join(own)}")
    if args.steps < 2:
        raise ValueError(f"--steps: expected 2 or more, got {args.steps}")
    for item in args.item:
        if item not in ITEMS:
            raise ValueError(f"--item: expected 0 to {ITEMS[-1]}, got {item}")
    for weight in args.weight or ():
        if not math.isfinite(weight):
            raise ValueError(f"--weight: expected finite numbers, got {weight}")
    if args.size is not None and (args.size <= 0 or args.size % 8):
        raise ValueError(f"--size: expected a multiple of 8, got {args.size}")
    if args.model is None:
        check_alone(args, OF_OWN)


def check_alone(args: argparse.Namespace, of_own: Iterable[str]) -> None:
    """Check that nothing is given that only a model of the user's heeds.

    Raises
    ------
    ValueError
        Naming the arguments.
    """
    given = [f"--{name.replace('_', '-')}" for name in of_own if getattr(args, name) is not None]
    if given:
        raise ValueError(f"{', '.join(given)}: expected with --model, the small model heeds none")


def take_defaults(args: argparse.Namespace, of_own: Mapping[str, object]) -> None:
    """Set what was not given."""
    for name, value in of_own.items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def _run_embedded(args: argparse.Namespace) -> list[Outcome]:
    from attnpatch.demo.embedded import EmbeddedModel
    from attnpatch.demo.report import make_sheet
    from attnpatch.demo.runner import run as run_variants
    from attnpatch.demo.variants import DEFAULT_WEIGHTS, plan

    model = EmbeddedModel(args.item, args.steps, args.seed)
    outcomes = run_variants(model, plan(args.weight or DEFAULT_WEIGHTS))
    subtitle = (
        "Fashion-MNIST model of the package, held-out test items as references, "
        f"{args.steps} DDIM steps, seed {args.seed}"
    )
    sheet = make_sheet(model, outcomes, "Image prompts with attnpatch", subtitle, model.names)
    sheet.save(args.output)
    return outcomes


def _run_own(args: argparse.Namespace) -> list[Outcome]:
    import torch

    from attnpatch.demo.own_model import OwnModel, OwnOptions
    from attnpatch.demo.report import make_sheet
    from attnpatch.demo.runner import run as run_variants
    from attnpatch.demo.variants import DEFAULT_WEIGHTS, LARGE_REDUCTIONS, plan
    from attnpatch.devices import check_device

    take_defaults(args, OF_OWN)
    check_device(args.device)
    dtype = args.dtype or ("float32" if torch.device(args.device).type == "cpu" else "float16")
    options = OwnOptions(
        model=args.model,
        adapter=args.adapter,
        images=tuple(args.image),
        image_encoder=args.image_encoder,
        prompt=args.prompt,
        steps=args.steps,
        seed=args.seed,
        size=args.size,
        guidance=args.guidance,
        device=args.device,
        dtype=getattr(torch, dtype),
    )
    model = OwnModel(options)
    variants = plan(args.weight or DEFAULT_WEIGHTS, reductions=LARGE_REDUCTIONS)
    outcomes = run_variants(model, variants)
    subtitle = f"{Path(args.model).name}, “{args.prompt}”, {args.steps} steps, seed {args.seed}"
    sheet = make_sheet(model, outcomes, "Image prompts with attnpatch", subtitle, model.names)
    sheet.save(args.output)
    return outcomes
