# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The degraded passes of guidance: a second run of a UNet on some rows of the call before."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from attnpatch.engine import COND, UNCOND, Call
from attnpatch.hosts.diffusers.prediction import Prediction
from attnpatch.hosts.host_call import Rows
from attnpatch.patches import DegradedPass, guide

RunUNet = Callable[[tuple[Any, ...], dict[str, Any]], Any]

# Arguments that are the same for all rows, whatever their first dimension.
_SHARED = ("ip_adapter_masks",)


def recorded_role(roles: Sequence[int]) -> int:
    """Return which rows a call's record is of: uncond; cond where there is nothing else.

    diffusers' own pipeline for self-attention guidance does so as well.
    """
    return UNCOND if UNCOND in roles else COND


def source_rows(rows: Rows, role: int) -> list[int]:
    """Return for each latent its row of a role; where it has none, of the other.

    The first of cond rows: those after it may be degraded by the pipeline itself. The last of
    uncond rows: those before it may be given a picture that the last one is not.
    """
    by_slot: dict[int, int] = {}
    pairs = list(enumerate(zip(rows.roles, rows.slots, strict=True)))
    first = [(row, slot) for row, (own, slot) in reversed(pairs) if own == COND]
    last = [(row, slot) for row, (own, slot) in pairs if own != COND]
    for row, slot in (*last, *first) if role == COND else (*first, *last):
        by_slot[slot] = row
    return [by_slot[slot] for slot in range(len(by_slot))]


def kept(value: Any) -> Any:
    """Copy what holds tensors, but no tensors: some layers empty the lists that they are given."""
    if isinstance(value, dict):
        return {name: kept(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(kept(item) for item in value)
    return value


class GuidedCall:
    """One ordinary call of a UNet, and the degraded passes that follow it.

    What these add is added to all rows of a latent: classifier-free guidance, whose factors sum to
    1, then adds it once, whatever its scale. They are given all else that the call was given, the
    residuals of ControlNets among it: pipelines compute those before, and once a step.

    Parameters
    ----------
    call
        The call, as the patches saw it: with a row for each frame.
    rows
        Its rows, as the host made it.
    passes
        What is to be done, at least one; strengths are for each latent, or for all.
    prediction
        What outputs say of the clean picture.
    cfg_scale
        Of the classifier-free guidance that follows; for ``rescale`` alone.
    latest
        What was recorded in the step before, for packages that skip the layers in some steps and
        keep what those gave; None: nothing may be skipped.
    """

    def __init__(
        self,
        call: Call,
        rows: Rows,
        passes: Sequence[DegradedPass],
        prediction: Prediction,
        cfg_scale: float,
        latest: Tensor | None = None,
    ) -> None:
        self._call = call
        self._rows = rows
        self._passes = passes
        self._prediction = prediction
        self._cfg_scale = cfg_scale
        self._latest = latest
        self.attention: Tensor | None = None
        """What was recorded, (B, h, w), once `output` needed it."""
        self._slots = range(max(rows.slots) + 1)
        self._sources = [source_rows(rows, each.role) for each in passes]

    @property
    def degraded(self) -> tuple[Rows, tuple[int, ...]]:
        """Rows, and place in the stack for each, of the call that runs all degraded passes."""
        sources = self._all_sources
        samples, crops = self._rows.samples, self._rows.crops
        rows = Rows(
            roles=tuple(self._rows.roles[row] for row in sources),
            slots=tuple(self._rows.slots[row] for row in sources),
            samples=samples and tuple(samples[row] for row in sources),
            crops=crops and tuple(crops[row] for row in sources),
        )
        return rows, tuple(each.index for each in self._passes for _ in self._slots)

    def output(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, run_unet: RunUNet
    ) -> Any:
        """Return the UNet's output with guidance in it.

        Parameters
        ----------
        args, kwargs
            Of the call.
        output
            As the UNet gave it: a tuple, or an object with `sample`.
        run_unet
            Runs the UNet on the rows of `degraded`.
        """
        result = output[0]
        sample = args[0] if args else kwargs["sample"]
        channels = result.shape[1]  # an inpainting UNet has mask and picture beside the latent
        prediction = self._prediction
        clean = prediction.clean(sample[:, :channels], result)
        starts = self._starts(clean)

        sources, batch = self._all_sources, sample.shape[0]
        frames = self._call.batch // batch
        args, kwargs = (take_arguments(v, sources, batch, frames) for v in (args, kwargs))
        sample = args[0] if args else kwargs["sample"]
        prediction = self._prediction.of(sources)
        change = torch.cat(starts) - take_rows(clean, sources)
        changed = sample[:, :channels] + prediction.signal * change
        sample = torch.cat([changed.to(sample.dtype), sample[:, channels:]], dim=1)
        if args:
            args = (sample, *args[1:])
        else:
            kwargs = {**kwargs, "sample": sample}
        degraded = prediction.clean(sample[:, :channels], run_unet(args, kwargs)[0])

        cond = take_rows(clean, source_rows(self._rows, COND))
        uncond = take_rows(clean, source_rows(self._rows, UNCOND))
        cfg = uncond + self._cfg_scale * (cond - uncond)
        predicted = cond, uncond if UNCOND in self._rows.roles else None
        predictions = degraded.split(len(self._slots))
        term = guide(cfg, *predicted, self._passes, starts, predictions, self._samples())
        term = take_rows(term, self._rows.slots)
        guided = (result + term / self._prediction.turn).to(result.dtype)
        if isinstance(output, tuple):
            return (guided, *output[1:])
        return dataclasses.replace(output, sample=guided)

    @property
    def _all_sources(self) -> list[int]:
        return [row for sources in self._sources for row in sources]

    def _samples(self) -> tuple[int, ...]:
        """Which sample each latent, or each frame, is."""
        by_slot = dict(zip(self._call.row_slots, self._call.row_samples, strict=True))
        return tuple(by_slot[slot] for slot in range(len(by_slot)))

    def _starts(self, clean: Tensor) -> list[Tensor]:
        """For each pass the picture that it starts from."""
        starts = []
        for wanted, sources in zip(self._passes, self._sources, strict=True):
            x0 = take_rows(clean, sources)
            pictures = x0 if x0.dim() == 4 else x0.movedim(2, 1).flatten(0, 1)  # a video's frames
            saliency = None
            if wanted.guidance.records:
                saliency = self.attention = self._saliency(len(pictures))
            pictures = wanted.guidance.degrade(pictures, saliency)
            if x0.dim() == 5:
                pictures = pictures.unflatten(0, (x0.shape[0], -1)).movedim(1, 2)
            starts.append(pictures)
        return starts

    def _saliency(self, latents: int) -> Tensor:
        record = self._call.record.record
        if not record and self._latest is not None and len(self._latest) == latents:
            return self._latest
        return record.saliency(latents, self._call.latent)


def take_arguments(value: Any, rows: Sequence[int], batch: int, frames: int = 1) -> Any:
    """Return rows of all that has one for each of a call's batch, or of its frames."""
    if isinstance(value, Mapping):
        return {
            name: item if name in _SHARED else take_arguments(item, rows, batch, frames)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return type(value)(take_arguments(item, rows, batch, frames) for item in value)
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    if len(value) == batch:
        return take_rows(value, rows)
    if len(value) == batch * frames:
        return take_rows(value.unflatten(0, (batch, frames)), rows).flatten(0, 1)
    return value


def take_rows(tensor: Tensor, rows: Sequence[int]) -> Tensor:
    """Return rows of a tensor, by slices: no index is sent to a device."""
    slices: list[slice] = []
    for row in rows:
        if slices and slices[-1].stop == row:
            slices[-1] = slice(slices[-1].start, row + 1)
        else:
            slices.append(slice(row, row + 1))
    if len(slices) == 1:
        return tensor[slices[0]]
    return torch.cat([tensor[part] for part in slices])
