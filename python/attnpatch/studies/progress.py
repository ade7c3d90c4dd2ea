# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Bars over cells and steps, with the time that is left; by tqdm where it is installed."""

from __future__ import annotations

import sys
import time
from importlib import import_module
from typing import Any, Protocol

__all__ = ["Progress", "Quiet", "make_progress"]


class Progress(Protocol):
    """Is told what is done."""

    def cells(self, count: int) -> None:
        """So many more cells are done."""
        ...

    def steps(self, count: int) -> None:
        """So many more cells went one step further."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


class Quiet:
    """Says nothing."""

    def cells(self, count: int) -> None:
        """Say nothing."""

    def steps(self, count: int) -> None:
        """Say nothing."""

    def close(self) -> None:
        """Say nothing."""


class _Bars:
    def __init__(self, tqdm: Any, cells: int, steps: int | None, done: int) -> None:
        options = {"dynamic_ncols": True, "file": sys.stderr}
        self._cells = tqdm(total=cells + done, initial=done, unit="cell", desc="cells", **options)
        self._steps = tqdm(total=steps, unit="step", desc="steps", leave=False, **options)

    def cells(self, count: int) -> None:
        self._cells.update(count)

    def steps(self, count: int) -> None:
        self._steps.update(count)

    def close(self) -> None:
        self._steps.close()
        self._cells.close()


class _Lines:
    """A line every few seconds, where tqdm is not installed."""

    def __init__(self, cells: int, done: int) -> None:
        self._all, self._done, self._new = cells + done, done, 0
        self._began = self._said = time.monotonic()

    def cells(self, count: int) -> None:
        self._new += count
        now = time.monotonic()
        if now - self._said < 5 and self._done + self._new < self._all:
            return
        self._said = now
        left = (self._all - self._done - self._new) * (now - self._began) / self._new
        print(f"{self._done + self._new} of {self._all} cells, {left:.0f} s left", file=sys.stderr)

    def steps(self, count: int) -> None:
        del count

    def close(self) -> None:
        pass


def make_progress(cells: int, steps: int | None, done: int = 0) -> Progress:
    """Return bars for so many cells and steps that are to come, and cells that are done already."""
    try:
        tqdm = import_module("tqdm").tqdm
    except ImportError:
        return _Lines(cells, done)
    return _Bars(tqdm, cells, steps, done)
