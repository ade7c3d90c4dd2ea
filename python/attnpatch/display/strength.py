# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""How strong a patch is as sampling goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from attnpatch.engine import Patch, Weight
from attnpatch.patches import ImagePrompt, KeyGain, NormalizedAttentionGuidance
from attnpatch.patches.guidance.guidance import Guidance
from attnpatch.patches.token_reduction.patch import TokenReduction, time_ratio

__all__ = ["Strength", "strength_of"]

_LAST = 999.0  # timesteps count 0 to 999


class Strength(NamedTuple):
    """A curve over progress, 0 to 1."""

    name: str
    """What it is: "weight", "scale", …."""
    at: Callable[[float], float]
    start: float = 0.0
    end: float = 1.0
    points: tuple[float, ...] = ()
    """Where it bends."""
    smooth: bool = False
    """Whether it bends everywhere."""


def strength_of(patch: Patch) -> Strength | None:
    """Give a patch's curve; None for patches of other makers, and where all is as it always is."""
    if isinstance(patch, ImagePrompt | KeyGain):
        weight = Weight.of(patch.weight)
        return _weighted("weight", weight, patch.start, patch.end)
    if isinstance(patch, Guidance):
        scale = patch.scale if isinstance(patch.scale, Weight) else Weight(patch.scale)
        return _weighted("scale", scale, patch.start, patch.end)
    if isinstance(patch, NormalizedAttentionGuidance):
        number = patch.scale
        assert number is not None  # where none is given, one is filled in
        return Strength("scale", lambda _: number, patch.start, patch.end)
    if isinstance(patch, TokenReduction):
        return _reduction(patch)
    return None


def _weighted(name: str, weight: Weight, start: float, end: float) -> Strength:
    points = tuple(progress for progress, _ in weight.curve)
    return Strength(name, lambda p: weight.scale * weight.factor(p), start, end, points)


def _reduction(patch: TokenReduction) -> Strength:
    peak, decay = (getattr(patch, name, 0.0) for name in ("peak_time", "time_decay"))
    if not patch.time_dependent or decay <= 0:
        return Strength("reduction", lambda _: 1.0)
    return Strength("reduction", lambda p: time_ratio(peak, decay, (1.0 - p) * _LAST), smooth=True)
