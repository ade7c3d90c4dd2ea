# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Types of arguments: their errors come before torch does."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path

__all__ = [
    "DTYPES",
    "MOST_SEED",
    "existing",
    "finite",
    "model_source",
    "one_file",
    "positive",
    "whole",
]

DTYPES = ("float32", "float16", "bfloat16")
MOST_SEED = 2**32 - 1
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_WEIGHTS = (".bin", ".ckpt", ".pt", ".pth", ".safetensors")


def whole(
    least: int, most: int | None = None, *, multiple: int = 1, text: str = ""
) -> Callable[[str], int]:
    """Return the type of whole numbers from `least` to `most`.

    Parameters
    ----------
    least, most
        The range, both included; None: no end.
    multiple
        What they are multiples of.
    text
        What was expected, for the error.
    """
    text = text or (f"{least} or more" if most is None else f"{least} to {most}")

    def read(word: str) -> int:
        try:
            value = int(word)
        except ValueError:
            value = least - 1
        if value < least or (most is not None and value > most) or value % multiple:
            raise argparse.ArgumentTypeError(f"expected {text}, got {word}")
        return value

    return read


def finite(word: str) -> float:
    """Read a finite number."""
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a finite number, got {word}")
    return value


def positive(word: str) -> float:
    """Read a finite number above 0."""
    value = finite(word)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {word}")
    return value


def existing(word: str) -> str:
    """Read the path of a file or folder that is there."""
    if not word or not Path(word).exists():
        raise argparse.ArgumentTypeError(f"expected a file or folder that is there, got {word!r}")
    return word


def one_file(word: str) -> str:
    """Read the path of a file that is there."""
    if Path(word).is_dir():
        raise argparse.ArgumentTypeError(f"expected a file, got the folder {word!r}")
    if not Path(word).exists():
        raise argparse.ArgumentTypeError(f"expected a file that is there, got {word!r}")
    return word


def model_source(word: str) -> str:
    """Read a file or folder that is there, or what may be an ID of the hub."""
    hub = _HUB_ID.fullmatch(word) and Path(word).suffix not in _WEIGHTS
    if not word or not (Path(word).exists() or hub):
        raise argparse.ArgumentTypeError(
            f"expected a file or folder that is there, or an ID of the hub such as "
            f"stabilityai/sdxl-turbo, got {word!r}"
        )
    return word
