# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The degraded passes of guidance: a second run of a UNet on some rows of the call before."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from attnpatch.hosts.diffusers.guidance import COND, UNCOND
from attnpatch.hosts.diffusers.prediction import Prediction
from attnpatch.patches import Call, DegradedPass, guide

RunUNet = Callable[[tuple[Any, ...], dict[str, Any]], Any]


def recorded_kind(chunks: Sequence[int]) -> int:
    """Return which chunks a call's record is of: uncond; cond where there is nothing else.

    diffusers' own pipeline for self-attention guidance does so as well.
    """
    return UNCOND if UNCOND in chunks else COND


class GuidedCall:
    """One ordinary call of a UNet, and the degraded passes that follow it.

    What these add is added to all chunks of the output: classifier-free guidance, whose factors sum
    to 1, then adds it once, whatever its scale. They are given all else that the call was given,
    the residuals of ControlNets among it: pipelines compute those before, and once a step.

    Parameters
    ----------
    call
        The call.
    passes
        What is to be done, at least one.
    prediction
        What outputs say of the clean picture.
    cfg_scale
        Of the classifier-free guidance that follows; for ``rescale`` alone.
    """

    def __init__(
        self,
        call: Call,
        passes: Sequence[DegradedPass],
        prediction: Prediction,
        cfg_scale: float,
    ) -> None:
        self._call = call
        self._passes = passes
        self._prediction = prediction
        self._cfg_scale = cfg_scale
        self.attention: Tensor | None = None
        """What was recorded, (B, h, w), once `output` needed it."""
        self._sources = [_chunk_of(call.chunks, one.kind) for one in passes]

    @property
    def degraded(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Kind and place in the stack of each chunk of the call that runs all degraded passes."""
        kinds = tuple(self._call.chunks[source] for source in self._sources)
        return kinds, tuple(one.place for one in self._passes)

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
        batch = sample.shape[0]
        channels = result.shape[1]  # an inpainting UNet has mask and picture beside the latent
        prediction = self._prediction
        clean = prediction.clean(sample[:, :channels], result).chunk(len(self._call.chunks))
        starts = self._starts(clean)

        args, kwargs = self._rows(args, batch), self._rows(kwargs, batch)
        sample = args[0] if args else kwargs["sample"]
        change = torch.cat(starts) - torch.cat([clean[source] for source in self._sources])
        changed = sample[:, :channels] + prediction.signal * change
        sample = torch.cat([changed.to(sample.dtype), sample[:, channels:]], dim=1)
        if args:
            args = (sample, *args[1:])
        else:
            kwargs = {**kwargs, "sample": sample}
        degraded = prediction.clean(sample[:, :channels], run_unet(args, kwargs)[0])

        cond = clean[_chunk_of(self._call.chunks, COND)]
        uncond = clean[_chunk_of(self._call.chunks, UNCOND)]
        cfg = uncond + self._cfg_scale * (cond - uncond)
        both = cond, uncond if UNCOND in self._call.chunks else None
        predictions = degraded.chunk(len(starts))
        term = guide(cfg, *both, self._passes, starts, predictions, self._call.samples or ())
        guided = result.unflatten(0, (len(clean), -1)) + term / prediction.turn
        guided = guided.flatten(0, 1).to(result.dtype)
        if isinstance(output, tuple):
            return (guided, *output[1:])
        return dataclasses.replace(output, sample=guided)

    def _starts(self, clean: Sequence[Tensor]) -> list[Tensor]:
        """For each pass the picture that it starts from."""
        found = []
        for one, source in zip(self._passes, self._sources, strict=True):
            x0 = clean[source]
            pictures = x0 if x0.dim() == 4 else x0.movedim(2, 1).flatten(0, 1)  # a video's frames
            saliency = None
            if one.guidance.records:
                saliency = self._call.record.saliency(len(pictures), self._call.latent)
                self.attention = saliency
            pictures = one.guidance.degrade(pictures, saliency)
            if x0.dim() == 5:
                pictures = pictures.unflatten(0, (x0.shape[0], -1)).movedim(1, 2)
            found.append(pictures)
        return found

    def _rows(self, value: Any, batch: int) -> Any:
        """Give each pass the rows of its chunk, in all that has a row for each of the batch."""
        if isinstance(value, dict):
            return {name: self._rows(item, batch) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._rows(item, batch) for item in value)
        if not isinstance(value, Tensor) or value.dim() == 0 or len(value) != batch:
            return value
        chunks = value.chunk(len(self._call.chunks))
        return torch.cat([chunks[source] for source in self._sources])


def _chunk_of(chunks: Sequence[int], kind: int) -> int:
    """Return the place of the last chunk of a kind; where there is none, of the last one."""
    return len(chunks) - 1 - (list(reversed(chunks)).index(kind) if kind in chunks else 0)
