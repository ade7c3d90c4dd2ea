# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""One call of each kind of an operator's kernel, against float64: the first thing to know of a GPU.

With --verdicts it reads instead what a trial of all shapes prints, and fails where one is wrong.
"""

from __future__ import annotations

import argparse
import sys

import torch

from attnpatch.ops.admission import OPERATORS
from attnpatch.ops.admission.child import trial_of
from attnpatch.ops.admission.problems import problems
from attnpatch.ops.admission.trial import WrongError
from attnpatch.ops.admission.tune import Ended, report_of


def first_calls(operator: str, device: torch.device) -> int:
    """Try the small problems of an operator one by one; returns how many are wrong."""
    trial = trial_of(operator, device)
    wrong = 0
    for i, problem in enumerate(p for p in problems(operator, torch.float16) if not p.real):
        shapes = [tuple(value.shape) for value in problem.arguments if torch.is_tensor(value)]
        try:
            ours, theirs = trial.errors(problem)
            print(f"{i}: {shapes}: {ours:.1e}, plain torch {theirs:.1e}", flush=True)
        except WrongError as error:
            wrong += 1
            print(f"{i}: {shapes}: WRONG: {error}", flush=True)
    return wrong


def wrong_verdicts(lines: list[str]) -> int:
    """Print what a trial found; returns how many classes are not right."""
    report = report_of(Ended(lines, 0))
    wrong = [verdict for verdict in report.verdicts if verdict.state != "right"]
    for verdict in wrong:
        print(f"{verdict.operator} {verdict.dtype}, {verdict.call}: WRONG: {verdict.why}")
    worst = max((verdict.error for verdict in report.verdicts), default=0.0)
    print(f"{len(report.verdicts) - len(wrong)} passed, {len(wrong)} failed, error {worst:.1e}")
    return len(wrong) + (report.problem != "")


@torch.no_grad()
def main() -> int:
    """Run it; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("operator", nargs="?", choices=OPERATORS)
    parser.add_argument("--verdicts", action="store_true", help="read a trial's lines")
    parser.add_argument("--device", default="cuda:0", help="cpu: to try this script")
    arguments = parser.parse_args()
    if arguments.verdicts:
        return int(wrong_verdicts(sys.stdin.read().splitlines()) > 0)
    return int(first_calls(arguments.operator, torch.device(arguments.device)) > 0)


if __name__ == "__main__":
    sys.exit(main())
