# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What people choose in the playground, checked: a page's fields are not to be trusted."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from attnpatch.engine.weights import number, weight_presets, whole_number
from attnpatch.engine.window import check_window
from attnpatch.pictures import read_picture

__all__ = ["LONGEST_EDGE", "MOST_PIXELS", "PromptSettings", "Settings", "read_upload", "to_mask"]

MOST_PIXELS = 50_000_000
"""Of an uploaded picture; what has more is not decoded."""
LONGEST_EDGE = 1024
"""Of a reference, in pixels; larger ones are made smaller. Encoders see 224 or 336."""


@dataclass(frozen=True)
class PromptSettings:
    """One image prompt.

    Parameters
    ----------
    picture : PIL.Image.Image
        RGB, as `read_upload` gives it.
    weight : float
        -2 to 3.
    layers : str
        A preset of weights over the layers.
    start, end : float
        The part of sampling in which it acts, 0 to 1.
    mask : PIL.Image.Image or None
        White where it acts, of any size; None: everywhere.

    Raises
    ------
    TypeError, ValueError
        Naming the field, what was expected and what came.
    """

    picture: Image.Image
    weight: float = 0.8
    layers: str = "linear"
    start: float = 0.0
    end: float = 1.0
    mask: Image.Image | None = None

    def __post_init__(self) -> None:
        _check_range("weight", self.weight, -2, 3)
        if not isinstance(self.layers, str) or self.layers not in weight_presets():
            known = ", ".join(weight_presets())
            raise ValueError(f"layers: expected one of {known}, got {self.layers!r}")
        check_window(self.start, self.end)


@dataclass(frozen=True)
class Settings:
    """All that makes a picture.

    Parameters
    ----------
    prompts : tuple of PromptSettings
    text, negative : str
        The prompt and the negative prompt. The small model knows its classes, and no negative.
    guidance : float
        Of classifier-free guidance, 0 to 30.
    sag, pag : float
        Scales of self-attention guidance and perturbed-attention guidance, 0 to 20; 0: without.
    reduction : str
        The name of one of the model's ways to fewer tokens; "": all tokens.
    steps : int
        2 to 100.
    seed : int
        0 to 2³² - 1.
    size : int
        Edge of the picture in pixels, 32 to 2048, a multiple of 8. The small model has one size.

    Raises
    ------
    TypeError, ValueError
        Naming the field, what was expected and what came.
    """

    prompts: tuple[PromptSettings, ...] = field(default=())
    text: str = ""
    negative: str = ""
    guidance: float = 5.0
    sag: float = 0.0
    pag: float = 0.0
    reduction: str = ""
    steps: int = 25
    seed: int = 0
    size: int = 512

    def __post_init__(self) -> None:
        _check_range("guidance", self.guidance, 0, 30)
        _check_range("sag", self.sag, 0, 20)
        _check_range("pag", self.pag, 0, 20)
        whole_number("steps", self.steps, 2, 100)
        whole_number("seed", self.seed, 0, 2**32 - 1)
        whole_number("size", self.size, 32, 2048)
        if self.size % 8:
            raise ValueError(f"size: expected a multiple of 8, got {self.size}")
        for name in ("text", "negative", "reduction"):
            text = getattr(self, name)
            if not isinstance(text, str):
                raise TypeError(f"{name}: expected a text, got {text!r}")
            if len(text) > 2000:
                raise ValueError(f"{name}: expected up to 2000 characters, got {len(text)}")


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= number(name, value) <= high:
        raise ValueError(f"{name}: expected {low} to {high}, got {value}")


def read_upload(path: str | os.PathLike[str], name: str) -> Image.Image:
    """Read a picture that somebody uploaded: RGB, upright, its longer edge at most `LONGEST_EDGE`.

    Raises
    ------
    ValueError
        Where it is no picture, or has more than `MOST_PIXELS`; `name` says which one.
    """
    try:
        with Image.open(path) as picture:
            width, height = picture.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise ValueError(f"{name}: expected a picture, got {Path(path).name}") from None
    if width * height > MOST_PIXELS:
        raise ValueError(
            f"{name}: expected at most {MOST_PIXELS // 10**6} million pixels, "
            f"got {width} × {height}"
        )
    try:
        read = Image.fromarray(read_picture(path, name))
    except OSError:
        raise ValueError(f"{name}: expected a whole picture, got a damaged one") from None
    read.thumbnail((LONGEST_EDGE, LONGEST_EDGE), Image.Resampling.LANCZOS)
    return read


def to_mask(picture: Image.Image) -> torch.Tensor:
    """Turn a picture into a mask, float32 (H, W): white is 1, black is 0."""
    return torch.from_numpy(np.asarray(picture.convert("L"), np.float32) / 255)
