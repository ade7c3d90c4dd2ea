# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What of a patch a cell can change: numbers with their ranges, words, and masks."""

from __future__ import annotations

from dataclasses import Field, dataclass, fields

from attnpatch.engine import Patch, Weight
from attnpatch.patches import (
    ImagePrompt,
    KeyGain,
    NormalizedAttentionGuidance,
    SelfAttentionGuidance,
)
from attnpatch.patches.guidance.guidance import Guidance
from attnpatch.patches.token_reduction.patch import TokenReduction

__all__ = ["Parameter", "has_mask", "parameters_of"]


@dataclass(frozen=True)
class Parameter:
    """One thing that can be changed.

    Parameters
    ----------
    name : str
        The patch's own.
    value
        What it is: a number, a word, a yes or no. Of a ``Weight`` its scale.
    low, high, step : float
        The range that is offered, for numbers.
    options : tuple
        All that there is, for words.
    """

    name: str
    value: bool | float | str
    low: float = 0.0
    high: float = 1.0
    step: float = 0.01
    options: tuple[bool | str, ...] = ()


# Low, high, step of what patches take without a limit: what is of use.
_RANGES: tuple[tuple[type[Patch], dict[str, tuple[float, float, float]]], ...] = (
    (ImagePrompt, {"weight": (-1.0, 2.0, 0.05)}),
    (SelfAttentionGuidance, {"blur_sigma": (0.0, 8.0, 0.1), "threshold": (0.0, 3.0, 0.05)}),
    (Guidance, {"scale": (-2.0, 8.0, 0.1), "rescale": (0.0, 1.0, 0.05)}),
    (
        NormalizedAttentionGuidance,
        {"scale": (1.0, 15.0, 0.1), "tau": (1.0, 10.0, 0.1), "alpha": (0.0, 1.0, 0.05)},
    ),
    (
        KeyGain,
        {"gain": (0.0, 4.0, 0.05), "value_gain": (-2.0, 4.0, 0.05), "weight": (0.0, 2.0, 0.05)},
    ),
)


def parameters_of(patch: Patch) -> tuple[Parameter, ...]:
    """Give what can be changed; nothing for patches of other makers."""
    found = {
        name: Parameter(name, _number_of(getattr(patch, name)), *_widened(patch, name, limits))
        for kind, ranges in _RANGES
        if isinstance(patch, kind)
        for name, limits in ranges.items()
    }
    if isinstance(patch, TokenReduction):
        found |= {p.name: p for p in map(lambda f: _declared(patch, f), fields(patch)) if p}
    # Weight and scale first, whatever kind brings them.
    return tuple(sorted(found.values(), key=lambda p: p.name not in ("weight", "scale", "gain")))


def has_mask(patch: Patch) -> bool:
    """Whether a mask can be given."""
    return isinstance(patch, ImagePrompt | KeyGain)


def _number_of(value: Weight | float) -> float:
    return value.scale if isinstance(value, Weight) else float(value)


def _widened(
    patch: Patch, name: str, limits: tuple[float, float, float]
) -> tuple[float, float, float]:
    """Let the range reach what the patch has."""
    low, high, step = limits
    value = _number_of(getattr(patch, name))
    return min(low, value), max(high, value), step


def _declared(patch: TokenReduction, declared: Field[object]) -> Parameter | None:
    """Read what a reduction's field says of itself."""
    metadata, value = declared.metadata, getattr(patch, declared.name)
    if declared.name == "compat" or "type" not in metadata:
        return None
    if metadata["type"] in (int, float):
        low, high, step = (metadata[key] for key in ("low", "high", "step"))
        return Parameter(declared.name, value, low, high, step)
    return Parameter(declared.name, value, options=metadata.get("options", (False, True)))
