# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""Runs the demo's variants on a model, and measures what they changed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from attnpatch.demo.variants import Variant


class StepSchedule:
    """Notes when each step ends; its median step leaves out the first, which has warm-up in it."""

    def __init__(self, bar: tqdm | None = None) -> None:
        self.bar = bar
        self.ends: list[float] = []

    def __call__(self, *_: object) -> None:
        """Note the end of a step."""
        self.ends.append(time.perf_counter())
        if self.bar is not None:
            self.bar.update()

    @property
    def seconds_per_step(self) -> float:
        """Median seconds between steps; NaN where there are fewer than two."""
        gaps = [b - a for a, b in zip(self.ends, self.ends[1:], strict=False)]
        return statistics.median(gaps) if gaps else float("nan")


class Model(Protocol):
    """A model the demo can run: the embedded one, or a user's pipeline."""

    steps: int
    references: list[Image.Image]
    partners: list[Image.Image]
    attention: Tensor | None
    """What guidance recorded in the last step of the latest pictures, (samples, h, w)."""

    def generate(self, variant: Variant, schedule: StepSchedule) -> list[Image.Image]:
        """Generate one picture per reference, all variants from the same seeds."""
        ...

    def similarity(self, pictures: list[Image.Image], targets: list[Image.Image]) -> list[float]:
        """Cosine similarity of the image encoder's embeddings, for each pair."""
        ...

    def share_right(self, pictures: list[Image.Image]) -> float | None:
        """Share of the pictures with the reference's class; None where there is no judge."""
        ...


@dataclass(frozen=True)
class Outcome:
    """What a variant gave.

    Attributes
    ----------
    similarity, plain_similarity : list of float
        Of its pictures, and of those without an image prompt, to what it aims at.
    share_right : float or None
        Share of pictures of the reference's class; None with masks or without a judge.
    change : (float, float)
        Mean absolute change from the plain pictures in the left and right half, 0 to 1.
    attention : Tensor or None
        (samples, h, w): what guidance recorded in the last step.
    """

    variant: Variant
    pictures: list[Image.Image]
    similarity: list[float]
    plain_similarity: list[float]
    share_right: float | None
    change: tuple[float, float]
    attention: Tensor | None = None

    @property
    def moved(self) -> float:
        """How far the pictures moved towards what they aim at: the mean gain in similarity."""
        return statistics.fmean(self.similarity) - statistics.fmean(self.plain_similarity)


def run(model: Model, variants: Sequence[Variant]) -> list[Outcome]:
    """Run every variant; the first has to be the plain one."""
    outcomes: list[Outcome] = []
    with tqdm(total=len(variants) * model.steps, unit="step", dynamic_ncols=True) as bar:
        for variant in variants:
            bar.set_description(variant.name)
            pictures = model.generate(variant, StepSchedule(bar))
            plain = outcomes[0].pictures if outcomes else pictures
            targets = aims(variant, model, plain)
            masked = variant.region != "all"
            outcomes.append(
                Outcome(
                    variant,
                    pictures,
                    model.similarity(pictures, targets),
                    model.similarity(plain, targets),
                    None if masked else model.share_right(pictures),
                    change(pictures, plain),
                    model.attention if variant.sag else None,
                )
            )
    return outcomes


def aims(variant: Variant, model: Model, plain: list[Image.Image]) -> list[Image.Image]:
    """Make the pictures a variant moves towards: a reference each, or two of them joined."""
    left = model.partners if variant.region == "right" else model.references
    right = model.references if variant.region in ("all", "left") else model.partners
    sizes = [picture.size for picture in plain]
    pairs = zip(left, right, sizes, strict=True)
    return [join_halves(a.resize(size), b.resize(size)) for a, b, size in pairs]


def join_halves(left: Image.Image, right: Image.Image) -> Image.Image:
    """Join the left half of one picture with the right half of another of the same size."""
    joined = left.convert("RGB")
    half = joined.width // 2
    joined.paste(right.convert("RGB").crop((half, 0, joined.width, joined.height)), (half, 0))
    return joined


def change(pictures: list[Image.Image], plain: list[Image.Image]) -> tuple[float, float]:
    """Mean absolute difference in the left and in the right half, 0 to 1."""
    parts = []
    for picture, before in zip(pictures, plain, strict=True):
        a, b = (np.asarray(p.convert("RGB"), np.float32) / 255.0 for p in (picture, before))
        parts.append(np.abs(a - b).mean((0, 2)))
    columns = np.mean(parts, 0)
    half = len(columns) // 2
    return float(columns[:half].mean()), float(columns[half:].mean())
