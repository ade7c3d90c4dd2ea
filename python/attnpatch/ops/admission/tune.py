# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What ``attnpatch tune`` does: find out which kernels serve this machine, and write it down."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnpatch.ops.admission.choice import Table
from attnpatch.ops.admission.verdicts import Identity, Verdict, folder, write


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes
    ----------
    lines
        What it had printed.
    status
        Its exit status; below 0 a signal ended it; None: it took too long.
    errors
        The end of what it said about errors.
    """

    lines: list[str]
    status: int | None
    errors: str = ""


Run = Callable[[Sequence[str], float], Ended]
"""Runs a child with some arguments, for so many seconds at most."""


def run_child(arguments: Sequence[str], seconds: float) -> Ended:
    """Run :mod:`attnpatch.ops.admission.child` in a process of its own."""
    command = [sys.executable, "-m", "attnpatch.ops.admission.child", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as child:
        try:
            out, errors = child.communicate(timeout=seconds)
            status: int | None = child.returncode
        except subprocess.TimeoutExpired:
            child.kill()
            out, errors = child.communicate()
            status = None
    return Ended(out.splitlines(), status, errors[-500:])


@dataclass(frozen=True)
class Report:
    """What a child found out.

    Attributes
    ----------
    identity
        Of the device; None: it did not come so far.
    verdicts
        On all classes that it named.
    problem
        Why it did not come to its end, in words; empty: it did.
    """

    identity: Identity | None
    verdicts: list[Verdict]
    problem: str = ""


def report_of(ended: Ended) -> Report:
    """Read what a child has printed.

    After a crash or a hang no class of the operator is trusted, also not those already tried.
    """
    identity: Identity | None = None
    classes: list[tuple[str, str, str]] = []
    verdicts: list[Verdict] = []
    done, problem = False, ""
    for text in ended.lines:
        try:
            line: dict[str, Any] = json.loads(text)
            identity = line.get("identity", identity)
            classes += [(str(a), str(b), str(c)) for a, b, c in line.get("classes", ())]
            problem = line.get("refusal", problem)
            done = done or line.get("done", False)
            if "verdict" in line:
                verdicts.append(Verdict(**line["verdict"]))
        except (ValueError, TypeError, AttributeError):
            continue  # a library has printed something
    if problem:
        return Report(identity, [], problem)
    if done and ended.status == 0:
        return Report(identity, verdicts)
    if ended.status is None:
        problem = "it took too long"
    elif ended.status < 0:
        problem = f"it was ended by signal {-ended.status}"
    else:
        problem = f"it ended with status {ended.status}"
    last = ended.errors.strip().splitlines()[-1:]
    problem = ": ".join([problem, *last])
    return Report(identity, [Verdict(*c, "failed", reason=problem) for c in classes], problem)


def busy_percent(device: str) -> int | None:
    """Return how much of a GPU other programs use now; None: nobody knows."""
    if not device.startswith("cuda"):
        return None
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    number = device.partition(":")[2] or "0"
    try:
        answer = subprocess.run(
            [*command, f"--id={number}"], capture_output=True, text=True, timeout=20
        )
        return int(answer.stdout.split()[0])
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return None


def tune(
    device: str,
    operators: Sequence[str],
    dtypes: Sequence[str],
    *,
    seconds: float = 60.0,
    run: Run = run_child,
    where: Path | None = None,
    say: Callable[[str], None] = print,
) -> Path | None:
    """Try kernels on a device and write verdicts.

    Parameters
    ----------
    device
        ``"cuda:0"`` and so on, or ``"cpu"``.
    operators, dtypes
        What to try.
    seconds
        Each operator may take.
    run
        Runs a child.
    where
        The folder of verdicts; the user's by default.
    say
        Takes lines for people.

    Returns
    -------
    Path or None
        The file; None: nothing could be found out, and verdicts stay as they were.
    """
    path = None
    where = folder() if where is None else where  # where there is none, nothing is measured
    for operator in operators:
        words = ["--operator", operator, "--device", device, "--dtype", *dtypes]
        ended = run(words, seconds)
        report = report_of(ended)
        # A GPU's kernel may hang; one for a CPU is slow on a slow machine, and was in time here.
        slow = ended.status is None and device == "cpu"
        if report.identity is None or slow:
            say(f"{operator}: {report.problem or 'no answer'}; nothing is changed")
            if report.identity is None and ended.status is not None and ended.status >= 0:
                break  # it is the device's fault: the others' words would be the same
            continue
        if report.problem:
            say(f"{operator}: {report.problem}; plain torch serves")
        else:
            for line in lines_about(report):
                say(line)
        if report.verdicts:
            path = write(report.identity, report.verdicts, where)
    if path is not None:
        say(f"Written to {path}")
    return path


def lines_about(report: Report) -> list[str]:
    """Return a line for each class: what serves it from now on, and why."""
    table = Table(str((report.identity or {}).get("device")), report.verdicts, "measured")
    lines = []
    for v in report.verdicts:
        choice = table.choose(v.operator, v.dtype, v.call)
        serves = "kernel" if choice.kernel else "plain torch"
        lines.append(f"{v.operator} {v.dtype.removeprefix('torch.')}, {v.call}: {serves} ({v.why})")
    return lines
