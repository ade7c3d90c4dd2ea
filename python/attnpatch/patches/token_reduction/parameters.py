# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Parameters that say their own defaults, ranges and meaning: for checks, nodes and documents."""

from __future__ import annotations

import operator
from dataclasses import Field, field
from typing import Any

__all__ = ["checked", "choice", "compat_with", "flag", "number", "seed_number", "whole_number"]


def number(default: float, low: float, high: float, step: float, text: str) -> Any:
    """Declare a number from `low` to `high`, which nodes offer in steps."""
    limits = {"low": low, "high": high, "step": step}
    return field(default=default, metadata={"type": float, "text": text, **limits})


def whole_number(default: int, low: int, high: int, step: int, text: str) -> Any:
    """Declare a whole number from `low` to `high`, which nodes offer in steps."""
    limits = {"low": low, "high": high, "step": step}
    return field(default=default, metadata={"type": int, "text": text, **limits})


def choice(default: str, options: tuple[str, ...], text: str) -> Any:
    """Declare one of some words."""
    return field(default=default, metadata={"type": str, "text": text, "options": options})


def flag(text: str) -> Any:
    """Declare a yes or no; no unless asked for."""
    return field(default=False, metadata={"type": bool, "text": text})


def compat_with(program: str) -> Any:
    """Declare the program to imitate where it errs; none unless asked for."""
    text = f"Do as {program} where it errs, to match old workflows."
    return field(default=None, metadata={"type": str, "text": text, "options": (None, program)})


def seed_number() -> Any:
    """Declare the seed of what is drawn anew at every layer and step."""
    text = "Decides on what is drawn anew at every layer and step."
    return whole_number(0, 0, 2**32 - 1, 1, text)


def checked(declared: Field[Any], value: Any, name: str | None = None) -> Any:
    """Return a parameter's value in its type; `name` is what its caller calls it, where not so.

    Raises
    ------
    TypeError, ValueError
        If it is of another type, or out of its range; the message names it.
    """
    name, metadata = name or declared.name, declared.metadata
    wanted = metadata["type"]
    if wanted is str:
        if value not in metadata["options"]:
            options = ", ".join(map(repr, metadata["options"]))
            raise ValueError(f"{name}: expected one of {options}, got {value!r}")
        return value
    if wanted is bool:
        return bool(value)
    low, high = metadata["low"], metadata["high"]
    try:
        value = operator.index(value) if wanted is int else float(value)
    except (TypeError, ValueError):
        expected = "a whole number" if wanted is int else "a number"
        raise TypeError(f"{name}: expected {expected}, got {value!r}") from None
    if not low <= value <= high:  # nor is a NaN
        raise ValueError(f"{name}: expected {low} to {high}, got {value}")
    return value
