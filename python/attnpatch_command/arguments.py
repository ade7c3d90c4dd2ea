# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What verbs share: types of arguments, whose errors come before torch does, and an own model's."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnpatch.demo.own_model import OwnOptions

__all__ = [
    "DTYPES",
    "MOST_SEED",
    "PROMPT",
    "check_own",
    "existing",
    "finite",
    "model_source",
    "one_file",
    "own_options",
    "positive",
    "take_defaults",
    "whole",
]

DTYPES = ("float32", "float16", "bfloat16")
PROMPT = "best quality, high quality"
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


def check_own(
    arguments: argparse.Namespace, together: Sequence[str], others: Mapping[str, object]
) -> None:
    """Check that all that an own model needs is given, or nothing of it.

    Parameters
    ----------
    arguments
        As they were parsed.
    together
        What it needs.
    others
        What it alone heeds beside, with the defaults.

    Raises
    ------
    ValueError
        Naming the options.
    """
    missing = [name for name in together if not getattr(arguments, name)]
    if 0 < len(missing) < len(together):
        raise ValueError(f"{_options(missing)}: needed with the others of {_options(together)}")
    lonely = [name for name in others if getattr(arguments, name) is not None]
    if missing and lonely:
        raise ValueError(
            f"{_options(lonely)}: expected with {_options(together)}, the small model heeds none"
        )


def take_defaults(arguments: argparse.Namespace, others: Mapping[str, object]) -> None:
    """Set what was not given."""
    for name, value in others.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)


def own_options(arguments: argparse.Namespace, **more: Any) -> OwnOptions:
    """Return what an own model is made of: what the verbs share, on a device that is here.

    Raises
    ------
    ValueError
        For a device that is not here.
    """
    import torch

    from attnpatch.demo.own_model import OwnOptions
    from attnpatch.devices import check_device

    check_device(arguments.device)
    on_cpu = torch.device(arguments.device).type == "cpu"
    dtype = arguments.dtype or ("float32" if on_cpu else "float16")
    return OwnOptions(
        model=arguments.model,
        adapter=arguments.adapter,
        image_encoder=arguments.image_encoder,
        prompt=arguments.prompt,
        steps=arguments.steps,
        size=arguments.size,
        device=arguments.device,
        dtype=getattr(torch, dtype),
        **more,
    )


def _options(names: Sequence[str]) -> str:
    return ", ".join("--" + name.replace("_", "-") for name in names)
