# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""`attnpatch demo`: its arguments, and what it does."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from attnpatch_command.arguments import MOST_SEED, finite, one_file, whole
from attnpatch_command.output import say
from attnpatch_command.own_model import (
    OF_OWN,
    add_own_model,
    check_own,
    own_options,
    take_defaults,
)

if TYPE_CHECKING:
    from attnpatch.demo.runner import Outcome

DEFAULT_OUTPUT = Path("out/demo.png")
# The first item of each of four classes among the test items that the package carries.
DEFAULT_ITEMS = (0, 1, 13, 18)
ITEMS = range(200)
# Few steps are best for the small model: more add up the errors of guidance.
EMBEDDED_STEPS, OWN_STEPS = 10, 25
# What an own model alone heeds, with what it takes where nothing is given.
_OF_OWN = {**OF_OWN, "guidance": 5.0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the demo's arguments to a parser."""
    parser.description = (
        "Generate pictures without and with image prompts, and write a contact sheet. Without "
        "--model it runs the small model in the package, on Fashion-MNIST test items."
    )
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="the sheet, a PNG")
    parser.add_argument("--weight", type=finite, nargs="+", help="weights of the image prompt")
    parser.add_argument("--steps", type=whole(2), help="default: 10, with --model 25")
    parser.add_argument("--seed", type=whole(0, MOST_SEED), default=0)
    embedded = parser.add_argument_group("the model in the package")
    embedded.add_argument(
        "--item",
        type=whole(ITEMS[0], ITEMS[-1]),
        nargs="+",
        default=list(DEFAULT_ITEMS),
        help=f"test items, 0 to {ITEMS[-1]}",
    )
    own = parser.add_argument_group("your own model (--model, --adapter and --image are needed)")
    add_own_model(own, whole(8, multiple=8, text="a multiple of 8"))
    own.add_argument("--image", type=one_file, nargs="+", help="reference pictures")
    own.add_argument("--guidance", type=finite, help=f"default: {_OF_OWN['guidance']}")


def check(arguments: argparse.Namespace) -> None:
    """Check what goes together; ValueError names the options."""
    check_own(arguments, ("model", "adapter", "image"), _OF_OWN)


def run(args: argparse.Namespace) -> int:
    """Run the demo.

    Returns
    -------
    int
        0; 1 when the image prompt had no effect.

    Raises
    ------
    OSError, ValueError
        For what the user can mend.
    """
    if args.steps is None:
        args.steps = OWN_STEPS if args.model else EMBEDDED_STEPS
    from attnpatch.demo.output import check_output

    check_output(args.output)
    say("Loading diffusers and the model")
    outcomes = _run_own(args) if args.model else _run_embedded(args)
    from attnpatch.demo.report import had_effect, make_table

    print(make_table(outcomes))
    print(f"Contact sheet: {args.output}")
    if had_effect(outcomes):
        return 0
    say("attnpatch demo: the image prompt had no effect")
    return 1


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
    from attnpatch.demo.own_model import OwnModel
    from attnpatch.demo.report import make_sheet
    from attnpatch.demo.runner import run as run_variants
    from attnpatch.demo.variants import DEFAULT_WEIGHTS, LARGE_REDUCTIONS, plan

    take_defaults(args, _OF_OWN)
    options = own_options(args, images=tuple(args.image), seed=args.seed, guidance=args.guidance)
    model = OwnModel(options)
    variants = plan(args.weight or DEFAULT_WEIGHTS, reductions=LARGE_REDUCTIONS)
    outcomes = run_variants(model, variants)
    subtitle = f"{Path(args.model).name}, “{args.prompt}”, {args.steps} steps, seed {args.seed}"
    sheet = make_sheet(model, outcomes, "Image prompts with attnpatch", subtitle, model.names)
    sheet.save(args.output)
    return outcomes
