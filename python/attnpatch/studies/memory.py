# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""How many rows a batch may have: as many as fit into memory, learnt from the batches before."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["RowLimit", "bytes_text"]

_FIRST, _MOST = 8, 64
_SHARE = 0.8  # of the memory that is free


class RowLimit:
    """The rows of the next batch.

    The first batch has a few rows; what it takes at its peak says how many the next one may have.
    Where memory ends all the same, the batch is halved and run again.

    Parameters
    ----------
    device
        Where the model runs.
    most
        The most rows; None: 64, or what memory allows.
    """

    def __init__(self, device: str, most: int | None = None) -> None:
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
            raise ValueError(f"rows: expected a whole number of at least 1, got {most!r}")
        self._device = torch.device(device)
        self._given = most
        self._limit = min(_FIRST, most or _FIRST) if most is None else most
        self.bytes_per_row: float | None = None

    @property
    def most(self) -> int:
        """How many rows batches may have at most, as far as it is known."""
        return self._limit if self._given is not None else _MOST

    def next(self, wanted: int) -> int:
        """Return how many rows the next batch has, of those that are wanted."""
        return max(1, min(self._limit, wanted))

    @contextmanager
    def measured(self, rows: int) -> Iterator[None]:
        """Learn from a batch of so many rows."""
        before = self._begin()
        yield
        taken = self._peak() - before
        if taken > 0:
            self.bytes_per_row = max(self.bytes_per_row or 0.0, taken / rows)
        if self._given is None:
            fits = _MOST
            free = self._free()
            if self.bytes_per_row and free:
                fits = int((taken + _SHARE * free) / self.bytes_per_row)
            self._limit = max(1, min(_MOST, fits, 4 * max(rows, self._limit)))

    def halve(self, rows: int) -> bool:
        """Let batches have at most half of so many rows; False: that is none."""
        self._limit = self._given = rows // 2
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return self._limit > 0

    def _begin(self) -> int:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            return torch.cuda.memory_allocated(self._device)
        return _peak_of_process()

    def _peak(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return _peak_of_process()

    def _free(self) -> float:
        if self._device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self._device)
            cached = torch.cuda.memory_reserved(self._device)
            return free + cached - torch.cuda.memory_allocated(self._device)
        return _free_memory()


def bytes_text(count: float) -> str:
    """Return a number of bytes for people."""
    if count >= 2**30:
        return f"{count / 2**30:.1f} GiB"
    return f"{count / 2**20:.0f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"


def _peak_of_process() -> int:
    """Return the most memory that this process had so far, in bytes; 0 where nobody tells."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _free_memory() -> float:
    """Return the memory that is free, in bytes; 0 where nobody tells."""
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return 0.0
