# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What single values of a study may be; each check gives the value back, or says what it wants."""

from __future__ import annotations

__all__ = ["MOST_SEED", "boolean", "real", "text", "whole"]

MOST_SEED = 2**64 - 1
"""The largest seed of torch, and of ComfyUI."""


def boolean(where: str, value: object) -> bool:
    """Return true or false; texts and numbers are neither."""
    if not isinstance(value, bool):
        raise TypeError(f"{where}: expected true or false, got {value!r}")
    return value


def real(where: str, value: object) -> float:
    """Return a number; that it is finite, a ``Table`` has seen to."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{where}: expected a number, got {value!r}")
    return value


def text(where: str, value: object) -> str:
    """Return a text."""
    if not isinstance(value, str):
        raise TypeError(f"{where}: expected a text, got {value!r}")
    return value


def whole(where: str, value: object, low: int = 0, high: int | None = None) -> int:
    """Return a whole number of at least `low`, and at most `high` where that is given."""
    if (
        isinstance(value, int)
        and not isinstance(value, bool)
        and value >= low
        and (high is None or value <= high)
    ):
        return value
    expected = f"of at least {low}" if high is None else f"from {low} to {high}"
    raise ValueError(f"{where}: expected a whole number {expected}, got {value!r}")
