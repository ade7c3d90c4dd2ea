# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The part of sampling in which a patch is active, as users give it."""

from __future__ import annotations

from typing import Any

from attnpatch._core import Window
from attnpatch.engine.weights import number

__all__ = ["check_window", "is_active"]


def check_window(start: Any, end: Any) -> tuple[float, float]:
    """Return start and end as floats.

    Parameters
    ----------
    start, end
        Progress of sampling, 0 to 1. Equal ones are allowed: hosts offer them.

    Raises
    ------
    TypeError
        If one is not a number.
    ValueError
        If one is outside of 0 to 1, so that it is perhaps meant in steps or percent, or if `start`
        is after `end`.
    """
    start, end = number("start", start), number("end", end)
    for name, value in (("start", start), ("end", end)):
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name}: expected a progress of 0 to 1, got {value}")
    if start > end:
        raise ValueError(f"start: expected at most the end, {end}, got {start}")
    return start, end


def is_active(window: Window, progress: float | None, what: str = "a patch") -> bool:
    """Whether a window has this progress.

    Parameters
    ----------
    window
        The part of sampling.
    progress
        0 to 1; None: the host gave none.
    what
        What has the window, for the error.

    Raises
    ------
    ValueError
        Where the window is not all of sampling, and the progress is None.
    """
    if window.full:
        return True
    if progress is None:
        raise ValueError(f"progress: {what} with start or end needs it, and the host gave none")
    return progress in window
