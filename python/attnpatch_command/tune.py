# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""``attnpatch tune``: its arguments."""

from __future__ import annotations

import argparse
import re

from attnpatch_command.arguments import DTYPES, positive

__all__ = ["add_arguments", "run"]

_BUSY_PERCENT = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``attnpatch tune`` to a parser."""
    parser.description = (
        "Compare the kernels with plain torch on this machine, each operator in a process of its "
        "own, and keep the verdicts: from then on a kernel serves the calls that it got right and "
        "made faster. Close other programs that use the GPU first."
    )
    parser.add_argument(
        "--device",
        type=_device,
        default="cuda:0",
        help="cuda:0, cuda:1, cpu (default: cuda:0)",
    )
    parser.add_argument(
        *("--operator",), nargs="+", help="those of attnpatch doctor's list (default: all)"
    )
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=["float16"])
    parser.add_argument(
        "--seconds", type=positive, default=60.0, help="at most for an operator (60)"
    )
    parser.add_argument("--busy", action="store_true", help="also on a GPU that others use")


def _device(text: str) -> str:
    if re.fullmatch(r"cpu|cuda(:\d+)?", text) is None:
        raise argparse.ArgumentTypeError(f"expected cpu, cuda or cuda:N, got {text!r}")
    return text


def run(arguments: argparse.Namespace) -> int:
    """Run ``attnpatch tune``; returns the exit status.

    Raises
    ------
    ValueError
        For an operator that there is not, and a busy GPU.
    """
    from attnpatch.ops.admission import OPERATORS, tune

    operators = arguments.operator or OPERATORS
    for name in operators:
        if name not in OPERATORS:
            raise ValueError(f"--operator: expected some of {', '.join(OPERATORS)}, got {name}")
    busy = tune.busy_percent(arguments.device)
    if busy is not None and busy > _BUSY_PERCENT and not arguments.busy:
        raise ValueError(
            f"--device {arguments.device}: expected a GPU that nobody uses, got one that is "
            f"{busy} % busy; close other programs, or --busy"
        )
    path = tune.tune(arguments.device, operators, arguments.dtype, seconds=arguments.seconds)
    return 0 if path is not None else 1
