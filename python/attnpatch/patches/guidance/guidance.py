# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Guidance by a degraded prediction: what SAG, PAG and SEG have in common."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from attnpatch._core import Layer, LayerTable, Window
from attnpatch.engine.edits import Edits
from attnpatch.engine.patch import BoundPatch, Patch
from attnpatch.engine.site import UNCOND, Call
from attnpatch.engine.tokens import IMAGE
from attnpatch.engine.weights import Weight, number
from attnpatch.engine.window import check_window, is_active
from attnpatch.patches.guidance.blocks import check_blocks, find_blocks
from attnpatch.patches.guidance.scale import (
    RESCALE_MODES,
    Scale,
    read_scale,
    rescaled,
    scales_of,
)

if TYPE_CHECKING:
    from typing_extensions import Self

    from attnpatch.engine.edits import AttentionWrapper

__all__ = ["BoundGuidance", "DegradedPass", "Guidance", "degraded_passes", "guide"]


@dataclass(frozen=True, repr=False)
class Guidance(Patch):
    """Leads sampling away from what the model predicts when something is taken from it.

    In each step the UNet runs once more, degraded; the result is

        guided + scale · (start − degraded prediction)

    on predictions of the clean picture (x0), where start is the prediction that the degraded pass
    began with. It is the same arithmetic for every sampler and scheduler.
    """

    scale: Scale
    blocks: str
    start: float
    end: float
    rescale: float
    rescale_mode: str

    degrades: ClassVar[int]
    """The prediction that it starts from: 0 cond, 1 uncond."""
    records: ClassVar[bool] = False
    """Whether it needs what is recorded in the ordinary calls of a step."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", read_scale(self.scale))
        start, end = check_window(self.start, self.end)
        values = {"start": start, "end": end, "rescale": number("rescale", self.rescale)}
        for name, value in values.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "blocks", check_blocks(self.blocks))
        if not 0 <= self.rescale <= 1:
            raise ValueError(f"rescale: expected 0 to 1, got {self.rescale}")
        if self.rescale_mode not in RESCALE_MODES:
            raise ValueError(
                f"rescale_mode: expected {', '.join(map(repr, RESCALE_MODES))}; "
                f"got {self.rescale_mode!r}"
            )

    @property
    def window(self) -> Window:
        """The part of sampling in which it is active."""
        return Window(self.start, self.end, False)

    @property
    def samples(self) -> int:
        """How many samples of a batch it tells apart; 1: all get the same."""
        return len(self.scale.samples) or 1 if isinstance(self.scale, Weight) else 1

    @property
    def disabled(self) -> bool:
        """Whether its scale is 0 throughout."""
        if not isinstance(self.scale, Weight):
            return self.scale == 0
        samples = self.scale.samples
        return self.scale.scale == 0 or bool(samples and not any(samples))

    @property
    def needs_uncond(self) -> bool:
        """Whether it needs the uncond prediction, even at a guidance scale of 1."""
        return self.degrades == UNCOND or self.rescale_mode == "snf"

    def strength(self, progress: float | None) -> float:
        """Give the scale at a progress, but for the samples' own.

        Raises
        ------
        ValueError
            Where it changes with progress, and that is None.
        """
        if isinstance(self.scale, Weight):
            return self.scale.scale * self.scale.factor(progress)
        return self.scale

    def acts(self, latent: tuple[int, int], progress: float | None) -> bool:
        """Whether it guides a latent of this height and width at this progress.

        Raises
        ------
        ValueError
            Where it needs progress and that is None.
        """
        if self.disabled or self.window.empty:
            return False
        if not is_active(self.window, progress, "guidance"):
            return False
        return self.strength(progress) != 0

    def degrade(self, x0: Tensor, saliency: Tensor | None) -> Tensor:
        """Give the picture that the degraded pass starts from: here the prediction itself.

        Parameters
        ----------
        x0
            The prediction (B, C, H, W) of the role that it degrades.
        saliency
            What was recorded in this step, (B, h, w), for guidance that records.
        """
        return x0

    @abstractmethod
    def bind(self, table: LayerTable, index: int = 0) -> BoundGuidance:
        """Fit it to a UNet; see ``Patch.bind``."""

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Everything it is: plain values for JSON, and no tensors."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        if isinstance(self.scale, Weight):
            values["scale"] = self.scale.to_json()
        # JSON has no infinity; below zero means it, as node packs write it.
        return {name: -1.0 if value == math.inf else value for name, value in values.items()}, {}

    @classmethod
    def from_state(cls, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Make it again from what ``state`` gave."""
        scale = values["scale"]
        if isinstance(scale, Mapping):
            values = {**values, "scale": Weight.from_json(scale)}
        return cls(**values)

    def __repr__(self) -> str:
        parts = [f"scale={self.scale!r}"]
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name != "scale" and value != f.default:
                parts.append(f"{f.name}={value!r}")
        return f"{type(self).__name__}({', '.join(parts)})"


class BoundGuidance(BoundPatch):
    """Guidance fitted to one UNet."""

    keys: ClassVar[str] = IMAGE

    def __init__(self, guidance: Guidance, table: LayerTable, index: int = 0) -> None:
        self.guidance = guidance
        self.index = index
        # A record is made in its window.
        self.time_dependent = guidance.records and not guidance.window.full
        self.table = table
        self.layers = find_blocks(table, guidance.blocks)
        self._skipped = tuple(self._reason(layer) for layer in table)

    def _reason(self, layer: Layer) -> str | None:
        guidance = self.guidance
        if layer not in self.layers:
            return f"not of the blocks {guidance.blocks}"
        if guidance.disabled:
            return "scale 0"
        if guidance.window.empty:
            return f"no time between start {guidance.start} and end {guidance.end}"
        return None

    @property
    def skipped(self) -> Sequence[str | None]:
        """For each layer why it never acts there; None where it may act."""
        return self._skipped

    @property
    def tells_roles_apart(self) -> bool:  # type: ignore[override]
        """Whether it needs to know which rows are cond and which uncond: it starts from one."""
        return any(reason is None for reason in self._skipped)

    def time_key(self, call: Call) -> Hashable | None:
        """Give what of the call matters: whether a chunk of it is degraded for this guidance."""
        return True if self.index in call.degraded else None

    def edits(self, call: Call, time_key: Any) -> Edits:
        """Return what it does in the rows that are degraded for it."""
        rows = tuple(index == self.index for index in call.by_row(call.degraded))
        return self.at_its_layers(self.degrading(rows) if any(rows) else None)

    def degrading(self, rows: tuple[bool, ...]) -> AttentionWrapper | None:
        """Return what degrades some rows of a call; None: the picture alone does."""
        return None

    def at_its_layers(self, wrapper: AttentionWrapper | None) -> Edits:
        """Return one wrapper at every layer where it acts."""
        if wrapper is None:
            return Edits()
        return Edits(wrappers={layer.index: wrapper for layer in self.layers})


@dataclass(frozen=True, slots=True)
class DegradedPass:
    """One run of the UNet that a guidance asks for."""

    index: int
    """Index of the guidance in the stack; what ``Call.degraded`` says of its chunk."""
    guidance: Guidance
    strength: float | tuple[float, ...]
    """Its scale now, but for the samples' own; several: for each latent, 0 where it is off."""

    @property
    def role(self) -> int:
        """Which prediction it starts from, and which conditioning it runs with."""
        return self.guidance.degrades


def degraded_passes(
    stack: Iterable[Patch],
    latent: tuple[int, int],
    progress: float | Sequence[float | None] | None,
) -> tuple[DegradedPass, ...]:
    """Return the degraded passes of a step, in the order of the stack.

    Parameters
    ----------
    stack
        All patches of the model.
    latent
        Height and width of the latent.
    progress
        How far sampling is, or for each latent how far it is; may be None where nothing has a
        start, an end or a curve.
    """
    times = tuple(progress) if isinstance(progress, Sequence) else (progress,)
    passes = []
    for index, patch in enumerate(stack):
        if not isinstance(patch, Guidance):
            continue
        acts = [patch.acts(latent, now) for now in times]
        if any(acts):
            pairs = zip(acts, times, strict=True)
            strengths = tuple(patch.strength(now) if on else 0.0 for on, now in pairs)
            passes.append(
                DegradedPass(
                    index, patch, strengths if isinstance(progress, Sequence) else strengths[0]
                )
            )
    return tuple(passes)


def guide(
    guided: Tensor,
    cond: Tensor,
    uncond: Tensor | None,
    passes: Sequence[DegradedPass],
    starts: Sequence[Tensor],
    predictions: Sequence[Tensor],
    samples: Sequence[int] = (),
) -> Tensor:
    """Return what the degraded passes of a step add; all tensors are predictions of x0.

    Parameters
    ----------
    guided
        The result so far, (B, C, H, W) or (B, C, frames, H, W): of classifier-free guidance, say.
        It is for ``rescale`` alone, as are cond and uncond.
    cond, uncond
        The predictions that it was made of; uncond may be None where there is none.
    passes
        What ``degraded_passes`` gave, at least one.
    starts
        For each what its ``degrade`` gave.
    predictions
        For each what the UNet made of that.
    samples
        Which sample each row (a video's: each frame) is; empty: 0, 1, 2, ….
    """
    total = torch.zeros_like(guided)
    for each, start, prediction in zip(passes, starts, predictions, strict=True):
        guidance = each.guidance
        scales = scales_of(guidance.scale, each.strength, guided, samples)
        term = scales * (start - prediction)
        mode = guidance.rescale_mode
        term = rescaled(term, cond, uncond, guided + total, guidance.rescale, mode)
        if isinstance(scales, Tensor):  # where it is off nothing may arrive, whatever the mode
            term = term.where(scales != 0, 0.0)
        total = total + term
    return total
