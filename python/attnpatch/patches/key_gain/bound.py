# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A key gain fitted to one model: what it adds to the scores of a layer in a call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from attnpatch._core import LayerTable, Window
from attnpatch.engine.edits import Edits
from attnpatch.engine.joint_layers import JointTable
from attnpatch.engine.masks import MaskPyramid
from attnpatch.engine.patch import BoundPatch
from attnpatch.engine.rows import sample_rows
from attnpatch.engine.score_bias import BiasTerm
from attnpatch.engine.site import COND, Call, Site
from attnpatch.engine.tokens import IMAGE, REFERENCE
from attnpatch.engine.weights import Weight, WeightLike
from attnpatch.engine.window import is_active
from attnpatch.patches.key_gain.keys import Keys

__all__ = ["BoundKeyGain", "Gain"]

TimeKey = float | tuple[float | None, ...]
"""The factor of the weight's curve, or for each row of the batch its own; None: not active."""


@dataclass(frozen=True, match_args=False)  # its members are read alone
class Gain(Protocol):
    """A key gain, as far as its bound form asks; see ``KeyGain``."""

    keys: Keys
    gain: float
    value_gain: float
    outside: float
    rows: str
    mask: Tensor | None
    weight: WeightLike
    start: float
    end: float
    uncond: bool | None
    mask_resize: str


class BoundKeyGain(BoundPatch):
    """A key gain fitted to one model."""

    def __init__(self, gain: Gain, table: LayerTable | JointTable) -> None:
        self.patch = gain
        self.keys = gain.keys.span  # type: ignore[misc]
        if self.keys == REFERENCE and not isinstance(table, JointTable):
            raise ValueError(
                f"keys: expected a model that is given references in its sequence, got a UNet "
                f"({table.family}), where {gain.keys!r} are none"
            )
        self.window = Window(gain.start, gain.end)
        self.weight = Weight.of(gain.weight)
        self.time_dependent = not self.window.full or bool(self.weight.curve)
        self.layer_weights = self.weight.for_layers(table)
        if all(weight is None for weight in self.layer_weights):
            raise ValueError(f"weight: {self.weight!r} names no layer of this {table.family}")
        self._skipped = tuple(self._reason(weight) for weight in self.layer_weights)
        acts = any(reason is None for reason in self._skipped)
        self.tells_roles_apart = acts and not gain.uncond
        self.asks_repeats = self.names_words = acts and gain.keys.some_words
        self.mask = None if gain.mask is None else MaskPyramid(gain.mask, gain.mask_resize)

    def _reason(self, weight: float | None) -> str | None:
        gain = self.patch
        if weight is None:
            return "the weight gives this layer nothing"
        if weight == 0 or (self.weight.samples and not any(self.weight.samples)):
            return "weight 0"
        if gain.gain == gain.outside == gain.value_gain == 1:
            return "all gains are 1"
        if self.window.empty:
            return f"no time between start {gain.start} and end {gain.end}"
        return None

    @property
    def skipped(self) -> Sequence[str | None]:
        """For each layer why it never acts there; None where it may act."""
        return self._skipped

    def time_key(self, call: Call) -> TimeKey | None:
        """Give the curve's factor now, or that of each row; None: not active now."""
        if all(self._skipped):
            return None
        factors = tuple(self._factor(point.progress) for point in call.points)
        if not any(factors):
            return None
        return factors[0] if len(factors) == 1 else factors

    def _factor(self, progress: float | None) -> float | None:
        if not is_active(self.window, progress):
            return None
        return self.weight.factor(progress)

    def edits(self, call: Call, time_key: TimeKey) -> Edits:
        """One bias, for the rows that have it."""
        many = time_key if isinstance(time_key, tuple) else (time_key,) * call.batch
        weights = [factor or 0.0 for factor in many]
        by_sample = self.weight.samples
        if by_sample:
            samples = sample_rows(call, len(by_sample), "weight")
            weights = [w * by_sample[sample] for w, sample in zip(weights, samples, strict=True)]
        if not self.patch.uncond:
            weights = [
                w if role == COND else 0.0 for w, role in zip(weights, call.roles, strict=True)
            ]
        if not any(weights):
            return Edits()
        rows = None
        if self.patch.mask is not None:
            rows = sample_rows(call, len(self.patch.mask), "mask")
        return Edits(biases=(GainBias(self, weights, rows),))


class GainBias:
    """A key gain in calls of one layout and time."""

    def __init__(
        self, bound: BoundKeyGain, weights: Sequence[float], mask_rows: Sequence[int] | None
    ) -> None:
        self._bound = bound
        self._weights = torch.tensor(weights, dtype=torch.float64, device="cpu")
        self._mask_rows = mask_rows

    def strength(self, layer: int) -> float | None:
        """Return the weight of a layer; None: it does not act there."""
        if self._bound.skipped[layer] is not None:
            return None
        return self._bound.layer_weights[layer]

    def term(self, site: Site, keys: int, strength: float) -> BiasTerm:
        """Return its term at a site; see ``ScoreBias``."""
        patch = self._bound.patch
        rows = [row for row, weight in enumerate(self._weights.tolist()) if weight != 0]
        chosen = patch.keys.choose(site.keys, keys, rows)
        weights = strength * self._weights[:, None]
        inside, concerned = self._inside(site)
        gains = patch.outside + inside * (patch.gain - patch.outside)
        gains = torch.where(concerned, (1.0 + weights * (gains - 1.0)).clamp_(min=0.0), 1.0)
        values = None
        if patch.value_gain != 1.0:
            values = 1.0 + weights * inside * (patch.value_gain - 1.0)
            values = _once(torch.where(concerned, values, 1.0)).float()
        return BiasTerm(*_factored(_once(gains), chosen), chosen, values)

    def _inside(self, site: Site) -> tuple[Tensor, Tensor]:
        """Return how far each query is inside of the mask (rows, queries), and who is meant."""
        spans = site.queries.spans
        count = max(span.stop or 0 for span in spans)
        rows = len(self._mask_rows or (0,))
        inside = torch.ones(rows, count, dtype=torch.float64, device="cpu")
        concerned = torch.full((count,), self._bound.patch.rows == "all", device="cpu")
        image = site.queries.find(IMAGE)
        if image is not None:
            concerned[image.start : image.stop] = True
            if self._bound.mask is not None and self._mask_rows is not None:
                inside[:, image.start : image.stop] = self._masks(site)
        return inside, concerned

    def _masks(self, site: Site) -> Tensor:
        assert self._bound.mask is not None and self._mask_rows is not None
        crops = site.call.crops or (None,) * site.call.batch
        return torch.stack(
            [
                self._bound.mask.at(site.grid, crop, site.call.latent)[row]
                for row, crop in zip(self._mask_rows, crops, strict=True)
            ]
        ).double()


def _once(rows: Tensor) -> Tensor:
    """Return the first of rows that are all alike, else all."""
    return rows[:1] if bool((rows == rows[:1]).all()) else rows


def _factored(gains: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Return log(gains) on the chosen keys as factors of queries and of keys, (rows, either).

    Where queries either have one gain or none, the factor is 1 for those who have it: terms that
    are for the same queries then become one.
    """
    logs = gains.log()
    different = logs[gains != 1.0]
    if different.numel() and bool((different == different[0]).all()):
        of_keys = torch.where(chosen, different[0], 0.0)
        return (gains != 1.0).float(), of_keys.float()
    return logs.float(), chosen.float()
