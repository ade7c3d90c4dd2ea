# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Running what is tried with a wheel, and telling how it went."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

Run: TypeAlias = "tuple[str, str, Sequence[str | Path], Mapping[str, str]]"
"""Where, what, the command, and all of its environment."""

_MOST_TOLD = 6000


class Attempts:
    """Counts what was tried, in a folder, and what failed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done = 0
        self.failed = 0

    def run(self, runs: Iterable[Run]) -> None:
        """Run each, one after the other; print a line for it, and its output where it fails."""
        for place, what, command, environment in runs:
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
            self.done += 1
            self.failed += finished.returncode != 0
            state = "FAILED" if finished.returncode else "ok"
            print(f"{state:6} {time.monotonic() - begin:6.1f} s  {place}: {what}", flush=True)
            if finished.returncode:
                print(
                    finished.stdout[-_MOST_TOLD:], f"exit status {finished.returncode}", flush=True
                )
