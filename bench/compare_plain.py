# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Speed of the operators in plain torch against their readable references, on the CPU.

Plain torch serves devices without a kernel of ours; here it shows that it is not slower than what
stands beside it for reading. Calls are those by which kernels are admitted, of layers of SD1.5,
SDXL and Flux, no larger than --values. In turn, round by round; a row has the reference's time over
plain torch's, the lower quarter of the rounds and their median: above 1 plain torch is faster.
"""

from __future__ import annotations

import argparse
import inspect
from functools import partial

import torch

from attnpatch.ops import library
from attnpatch.ops.admission import OPERATORS, class_of
from attnpatch.ops.admission.problems import problems
from attnpatch.ops.admission.timing import measure, ratio


def rows(operator: str, arguments: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Measure one call of each class that is not too large."""
    forms = library.forms_of(operator)
    functions = [inspect.unwrap(forms.plain), inspect.unwrap(forms.reference)]
    found: dict[str, tuple[float, float]] = {}
    for problem in problems(operator, getattr(torch, arguments.dtype)):
        name = class_of(operator, problem.arguments)
        if not problem.real or name in found:
            continue
        if problem.arguments[0].numel() > arguments.values:
            continue
        calls = [[partial(function, *problem.arguments)] for function in functions]
        ours, theirs = measure(torch.device("cpu"), calls, arguments.rounds, arguments.seconds)
        found[name] = ratio(theirs, ours)
    return found


@torch.no_grad()
def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--operator", choices=OPERATORS, nargs="+", default=list(OPERATORS))
    parser.add_argument("--values", type=int, default=1 << 20, help="of q at most")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5, help="of a round")
    arguments = parser.parse_args()
    print("| operator | calls | plain torch, times as fast |\n| --- | --- | --- |", flush=True)
    for operator in arguments.operator:
        for name, (middle, quarter) in rows(operator, arguments).items():
            print(f"| {operator} | {name} | {quarter:.2f} {middle:.2f} |", flush=True)


if __name__ == "__main__":
    main()
