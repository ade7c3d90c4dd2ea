# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Measures of a picture: similarity to its reference, distance from the unpatched one, others."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from attnpatch.studies.cells import Cell
from attnpatch.studies.options import PIPELINE

__all__ = ["Measure", "check_measures", "distance", "measured", "named_measures"]

_COLUMNS = ("id", "patched", "file", "seconds_per_step", "similarity", "distance")

Measure = Callable[[Image.Image, Cell], float]
"""A function of a picture and its cell."""


def distance(levels: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    """Return the mean absolute difference of two pictures of 8 bits, 0 to 1."""
    if levels.shape != other.shape:
        raise ValueError(f"distance: expected equal shapes, got {levels.shape} and {other.shape}")
    return float(np.abs(levels.astype(np.float32) - other).mean() / 255.0)


def check_measures(measures: Mapping[str, Measure], columns: Iterable[str]) -> None:
    """Check a user's functions before anything runs.

    Raises
    ------
    TypeError, ValueError
        For what can not be called, and for names that columns of the table have already.
    """
    if not isinstance(measures, Mapping):
        raise TypeError(f"measures: expected functions by their names, got {measures!r}")
    taken = {*_COLUMNS, *PIPELINE, *columns}
    for name, function in measures.items():
        if not isinstance(name, str) or not name or name in taken:
            raise ValueError(
                f"measures: expected a name that no other column of the table has, got {name!r}"
            )
        if not callable(function):
            raise TypeError(
                f"measures: expected functions of a picture and its cell, got {function!r} as "
                f"{name!r}"
            )


def measured(
    measures: Mapping[str, Measure], levels: npt.NDArray[np.uint8], cell: Cell
) -> tuple[dict[str, float], ValueError | None]:
    """Return what a user's functions say of a picture, and the error of the first one that fails.

    A picture took longer to make than it takes to measure: it is kept, whatever a function does.
    """
    found: dict[str, float] = {}
    failed: ValueError | None = None
    picture = Image.fromarray(levels) if measures else None
    for name, function in measures.items():
        try:
            found[name] = _number(function(cast("Image.Image", picture), cell))
        except Exception as error:
            if failed is None:
                failed = ValueError(f"measure {name}: {_text(error)}, of the cell {cell.id}")
                failed.__cause__ = error
    return found, failed


def _number(value: Any) -> float:
    """Return any real number as a float, those of NumPy and torch among them."""
    given = value.item() if hasattr(value, "item") else value
    if not isinstance(given, numbers.Real) or not math.isfinite(given):
        raise _NoNumber(f"expected a finite number, got {value!r}")
    return float(given)


class _NoNumber(ValueError):
    """What a measure gave is no number."""


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, _NoNumber) else f"{type(error).__name__}: {error}"


def named_measures(names: Mapping[str, str] | list[str]) -> dict[str, Measure]:
    """Return functions by names such as "module:function", as the command line gives them.

    Raises
    ------
    ValueError
        For names of nothing that can be called.
    """
    found: dict[str, Measure] = {}
    for full in names:
        module, _, name = full.partition(":")
        function: Any = None
        if module and name:
            try:
                function = getattr(import_module(module), name, None)
            except ImportError as error:
                raise ValueError(f"--measure: {full}: {error}") from None
        if not callable(function):
            raise ValueError(f"--measure: expected module:function, got {full!r}")
        if name in found:
            raise ValueError(f"--measure: expected each name once, got {name!r} again")
        found[name] = function
    return found
