# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Measures of a picture: similarity to its reference, distance from the unpatched one, others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from attnpatch.studies.cells import Cell

__all__ = ["Measure", "distance", "measured", "named_measures"]

Measure = Callable[[Image.Image, Cell], float]
"""A function of a picture and its cell."""


def distance(levels: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    """Return the mean absolute difference of two pictures of 8 bits, 0 to 1."""
    if levels.shape != other.shape:
        raise ValueError(f"distance: expected equal shapes, got {levels.shape} and {other.shape}")
    return float(np.abs(levels.astype(np.float32) - other).mean() / 255.0)


def measured(
    measures: Mapping[str, Measure], levels: npt.NDArray[np.uint8], cell: Cell
) -> dict[str, float]:
    """Return what a user's functions say of a picture.

    Raises
    ------
    ValueError
        Where one gives no number.
    """
    if not measures:
        return {}
    picture = Image.fromarray(levels)
    found = {}
    for name, function in measures.items():
        value = function(picture, cell)
        if not isinstance(value, int | float) or not np.isfinite(value):
            raise ValueError(f"measure {name}: expected a finite number, got {value!r}")
        found[name] = float(value)
    return found


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
        found[name] = function
    return found
