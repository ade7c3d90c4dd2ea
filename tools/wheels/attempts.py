# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Running what is tried with a wheel, and telling how it went."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

Run: TypeAlias = "tuple[str, str, Sequence[str | Path], Mapping[str, str]]"
"""Where, what, the command, and all of its environment."""

CORES = os.cpu_count() or 1

OPERATORS = "tests_py/ops"
"""Where the operators' tests are, in a clone and beside the wheels that are tried."""

OPERATORS_TESTS = (
    *("pytest", OPERATORS, "-q", "-p", "no:cacheprovider"),
    *("-n", str(CORES), "--dist", "worksteal"),
)
"""The module that runs them, and its arguments."""

_MOST_TOLD = 6000


class Attempts:
    """Counts what was tried, in a folder, and what failed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done = 0
        self.failed = 0

    def run(self, runs: Iterable[Run], *, together: bool = True) -> None:
        """Run each; print a line for it when it ends, and its output where it failed.

        Parameters
        ----------
        together
            Whether as many run at once as there are cores; one after the other otherwise.
        """
        with ThreadPoolExecutor(CORES if together else 1) as pool:
            for failed in pool.map(self._attempt, runs):
                self.done += 1
                self.failed += failed

    def _attempt(self, run: Run) -> bool:
        """Run one; return whether it failed."""
        place, what, command, environment = run
        begin = time.monotonic()
        finished = subprocess.run(
            [str(word) for word in command],
            cwd=self.folder,
            env=dict(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        failed = finished.returncode != 0
        line = (
            f"{'FAILED' if failed else 'ok':6} {time.monotonic() - begin:6.1f} s  {place}: {what}"
        )
        if failed:
            line += f"\n{finished.stdout[-_MOST_TOLD:]} exit status {finished.returncode}"
        print(line, flush=True)
        return failed
