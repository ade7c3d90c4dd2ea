# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The part of sampling in which a patch is active, as users give it."""

from __future__ import annotations

from typing import Any

from attnpatch.engine.weights import number

__all__ = ["check_window"]


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
