# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: calls timed by turns, tables, files, and how quiet the machine was.

A benchmark opens a :class:`Measuring` and fills its tables. They are printed, and with ``--json
FILE`` written; ``--against FILE`` compares them with those of an earlier run, of another commit.
``--busy N`` runs N programs beside the measurement, each with a share of the processors of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from attnpatch import _core
from attnpatch.ops.admission import timing

ROOT = Path(__file__).resolve().parent.parent
QUIET = 0.1  # the share of the processors that others may take of a quiet machine
WORSE = 1.05
# A competing program: it ends with the measurement, however that ends.
_SPIN = """
import os, time
parent = os.getppid()
while os.getppid() == parent:
    end = time.monotonic() + 1
    while time.monotonic() < end:
        pass
"""


def measure(
    calls: Sequence[Callable[[], object]], rounds: int, seconds: float
) -> list[list[float]]:
    """Seconds of a call, for each of `calls` in each round; rounds alternate between the calls."""
    repeats = []
    for call in calls:
        call()
        start = time.perf_counter()
        call()
        repeats.append(max(1, round(seconds / max(time.perf_counter() - start, 1e-7))))
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, count, seconds_of_call in zip(calls, repeats, times, strict=True):
            start = time.perf_counter()
            for _ in range(count):
                call()
            seconds_of_call.append((time.perf_counter() - start) / count)
    return times


def ratio(others: Sequence[float], ours: Sequence[float]) -> float:
    """How many times as long others take: the median over the rounds."""
    return timing.ratio(others, ours)[0]


def milliseconds(times: Sequence[float]) -> float:
    """Give the median in ms."""
    return statistics.median(times) * 1e3


def add_arguments(parser: argparse.ArgumentParser, rounds: int = 9) -> None:
    """Add what every benchmark of operators takes."""
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--seconds", type=float, default=0.05, help="of each call in a round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    parser.add_argument("--busy", type=int, default=0, help="so many programs run beside")
    parser.add_argument("--json", type=Path, help="where the figures are written")
    parser.add_argument("--against", type=Path, help="such a file, to compare with")


@dataclass
class Table:
    """Rows of a table, printed as they come."""

    name: str
    keys: tuple[str, ...]
    figures: tuple[str, ...]
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        _print_row([*self.keys, *self.figures])
        _print_row(["---"] * (len(self.keys) + len(self.figures)))

    def add(self, keys: Sequence[object], figures: Sequence[float]) -> None:
        """Add a row: what it is of, and its figures."""
        named = dict(zip(self.figures, figures, strict=True))
        self.rows.append(
            {"of": dict(zip(self.keys, map(str, keys), strict=True)), "figures": named}
        )
        _print_row([*map(str, keys), *(f"{figure:.2f}" for figure in figures)])


def _print_row(cells: Sequence[str]) -> None:
    # To the output itself, past a progress bar on the other.
    print("| " + " | ".join(cells) + " |", flush=True)


def peak_of(call: Callable[[], object]) -> float:
    """MiB that a call adds to this process at its peak."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    try:
        reset.write_text("5")  # the peak starts anew
    except OSError:
        return math.nan

    def kib(name: str) -> int:
        line = next(x for x in status.read_text().splitlines() if x.startswith(name))
        return int(line.split()[1])

    before = kib("VmRSS:")
    call()
    return (kib("VmHWM:") - before) / 1024


class Measuring:
    """A run of a benchmark."""

    def __init__(self, args: argparse.Namespace, *notes: str) -> None:
        self.args = args
        self.tables: list[Table] = []
        self.about = {
            "machine": _processor(),
            "target": _core.cpu_targets()[0],
            "torch": torch.__version__,
            "commit": _commit(),
            "dtype": args.dtype,
            "threads": args.threads,
            "busy": args.busy,
        }
        self.peak = peak_gflops()
        self._notes = notes

    def table(self, name: str, keys: Sequence[str], figures: Sequence[str]) -> Table:
        """Begin a table; the names of figures that begin with "/" are of ratios to ours."""
        if self.tables:
            print()
        self.tables.append(Table(name, tuple(keys), tuple(figures)))
        return self.tables[-1]

    def share_of_peak(self, multiply_adds: float, times: Sequence[float]) -> float:
        """Give the share of the threads' peak that some work reached; NaN where it is unknown."""
        if self.peak is None:
            return math.nan
        rate = 2e-9 * multiply_adds / statistics.median(times)
        return rate / (self.peak * self.args.threads)

    def _begin(self) -> None:
        about = self.about
        print(
            f"{about['dtype']}, {about['threads']} threads, {about['target']}, "
            f"torch {about['torch']}" + "".join(f", {note}" for note in self._notes)
        )
        if self.args.busy:
            print(f"{self.args.busy} other programs run on the same processors")
        peak = "not known: ./run bench builds what measures it"
        print(f"Peak of a core: {peak if self.peak is None else f'{self.peak:.0f} GFLOP/s'}\n")

    def _end(self, others: float | None) -> None:
        self.about["others"] = others
        allowed = QUIET if not self.args.busy else 1.0
        if others is not None and others > allowed:
            print(f"\nNot quiet: others took {others:.0%} of the processors.")
        if self.args.json is not None:
            tables = [{"name": table.name, "rows": table.rows} for table in self.tables]
            text = json.dumps({"about": self.about, "tables": tables}, indent=1)
            self.args.json.write_text(text + "\n")
        if self.args.against is not None:
            for line in compare(json.loads(self.args.against.read_text()), self.tables):
                print(line)

    @contextmanager
    def running(self) -> Iterator[Measuring]:
        """Measure, beside the programs that are to compete."""
        self._begin()
        spin = [sys.executable, "-c", _SPIN]
        programs = [subprocess.Popen(spin, start_new_session=True) for _ in range(self.args.busy)]
        before = _processor_times()
        try:
            yield self
        finally:
            for program in programs:
                program.kill()
                program.wait()
        self._end(_taken_by_others(before))


def compare(before: dict[str, Any], tables: Sequence[Table]) -> Iterator[str]:
    """Say how figures that both runs have are to those before: ratios, whose machine was the same.

    Yields
    ------
    str
        A line for each table, and one for each ratio that is worse by a twentieth.
    """
    about = before["about"]
    yield f"\nAgainst {about['commit']} on {about['machine']}:"
    old = {table["name"]: table["rows"] for table in before["tables"]}
    for table in tables:
        was = {tuple(row["of"].values()): row["figures"] for row in old.get(table.name, [])}
        changes = []
        for row in table.rows:
            key = tuple(row["of"].values())
            for name, figure in row["figures"].items():
                if not name.startswith("/") or name not in was.get(key, {}):
                    continue
                change = figure / was[key][name]
                changes.append(change)
                if change * WORSE < 1:
                    words = ", ".join(key)
                    yield f"- {table.name}, {words}: {name} {was[key][name]:.2f}, now {figure:.2f}"
        if changes:
            mean = statistics.geometric_mean(changes)
            yield f"- {table.name}: {len(changes)} ratios, {mean:.3f} times those before"
        else:
            yield f"- {table.name}: nothing to compare"


def copying(numbers: int, dtype: torch.dtype) -> Callable[[], torch.Tensor]:
    """Give a call that reads and writes so many numbers in all: a copy of half as many.

    Its time over an operator's that reads and writes as many is the share of the copy rate that the
    operator reaches.
    """
    given = torch.zeros(max(numbers // 2, 1), dtype=dtype)
    return given.clone


def peak_gflops() -> float | None:
    """Multiply-adds of registers alone, in GFLOP/s of one core; None where it is not built."""
    program = ROOT / "build/release/bench/peak"
    if not program.is_file():
        return None
    return float(subprocess.run([program], check=True, capture_output=True, text=True).stdout)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=10"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.stdout.strip() or "an unknown commit"


@dataclass(frozen=True)
class _ProcessorTimes:
    """Seconds since the start of the machine: all processors', those at work, this program's."""

    all: float
    busy: float
    own: float


def _processor_times() -> _ProcessorTimes | None:
    try:
        ticks = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None  # no Linux
    idle = ticks[3] + ticks[4]
    second = 100  # ticks, on every Linux of today
    return _ProcessorTimes(sum(ticks) / second, (sum(ticks) - idle) / second, time.process_time())


def _taken_by_others(before: _ProcessorTimes | None) -> float | None:
    now = _processor_times()
    if before is None or now is None or now.all <= before.all:
        return None
    others = (now.busy - before.busy) - (now.own - before.own)
    return max(others, 0.0) / (now.all - before.all)
