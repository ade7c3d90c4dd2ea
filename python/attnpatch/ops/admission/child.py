# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A process that tries one operator's kernels on one device; ``attnpatch tune`` runs it.

It prints lines of JSON: what identifies the device, the classes of calls that it will try, a
verdict on each, and last that it is done. A kernel that crashes or hangs takes this process alone
with it.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch

from attnpatch.ops import library
from attnpatch.ops.admission.classes import OPERATORS, class_of
from attnpatch.ops.admission.identity import identity_of
from attnpatch.ops.admission.problems import Problem, problems
from attnpatch.ops.admission.trial import Trial, WrongError
from attnpatch.ops.admission.verdicts import Verdict

_MOST_VALUES_ON_CPU = 1 << 23
"""In the first argument: more would take minutes."""


def trial_of(operator: str, device: torch.device) -> Trial:
    """Return an operator's forms on a device, the reference without its checks: in float64."""
    forms = library.forms_of(operator)
    return Trial(forms.operator, forms.plain, inspect.unwrap(forms.reference), device)


def by_class(operator: str, dtype: torch.dtype, device: torch.device) -> dict[str, list[Problem]]:
    """Return the problems that an operator's kernels take on a device, by class of calls."""
    classes: dict[str, list[Problem]] = {}
    for problem in problems(operator, dtype):
        if library.is_beyond(operator, device.type, problem.arguments):
            continue
        if device.type == "cpu" and problem.arguments[0].numel() > _MOST_VALUES_ON_CPU:
            continue
        classes.setdefault(class_of(operator, problem.arguments), []).append(problem)
    return classes


def verdict_on(
    key: tuple[str, str, str], trial: Trial, group: Sequence[Problem], rounds: int, seconds: float
) -> Verdict:
    """Try the problems of one class."""
    worst = plain = 0.0
    try:
        for problem in group:
            ours, theirs = trial.errors(problem)
            worst, plain = max(worst, ours), max(plain, theirs)
        largest = max(group, key=lambda p: (p.real, p.arguments[0].numel()))
        median, quartile = trial.speed(largest, rounds, seconds)
    except WrongError as error:
        return Verdict(*key, "wrong", reason=str(error))
    except (RuntimeError, ValueError) as error:
        return Verdict(*key, "failed", reason=f"{type(error).__name__}: {error}"[:500])
    return Verdict(*key, "right", median, quartile, worst, plain)


def lines(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Give what the process prints."""
    device = torch.device(arguments.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        refusal = library.load_cuda_kernels().refusal(device.index or 0)
        if refusal:
            yield {"refusal": refusal}
            return
    yield {"identity": dict(identity_of(device))}
    if arguments.operator is None:
        yield {"done": True}
        return
    trial = trial_of(arguments.operator, device)
    groups = []
    for word in arguments.dtype:
        classes = by_class(arguments.operator, getattr(torch, word), device)
        groups += [
            ((arguments.operator, f"torch.{word}", c), group) for c, group in classes.items()
        ]
    yield {"classes": [key for key, _ in groups]}
    for key, group in groups:
        yield {
            "verdict": asdict(verdict_on(key, trial, group, arguments.rounds, arguments.seconds))
        }
    yield {"done": True}


def main(words: Sequence[str] | None = None) -> int:
    """Run the process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--operator", choices=OPERATORS)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--dtype", nargs="+", default=["float16"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.02)
    with torch.no_grad():
        for line in lines(parser.parse_args(words)):
            print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
