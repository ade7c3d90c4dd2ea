# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What the replace slots of one model share: its patches at work, and the call that is running."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from attnpatch.engine import IMAGE, TEXT, BoundStack, Call, Layer, SamplingPoint, Site
from attnpatch.hosts.comfyui.host_batch import BATCH, HostBatch
from attnpatch.hosts.comfyui.joined_rows import ROWS, JoinedRows
from attnpatch.hosts.comfyui.optimized_attention import OptimizedAttention
from attnpatch.hosts.comfyui.options import DEGRADED, OTHERS, Others
from attnpatch.hosts.comfyui.records import SigmaRecords
from attnpatch.hosts.comfyui.repeated_texts import find_repeats, told_repeats
from attnpatch.hosts.comfyui.roles import ROLES, sigmas_of_step
from attnpatch.hosts.comfyui.windows import shown_samples
from attnpatch.hosts.host_call import HostCall
from attnpatch.hosts.token_grids import grid_of
from attnpatch.patches import Area, AttentionRecord, CallRecord, Guidance

ExtraOptions = Mapping[str, Any]
_NONE: Mapping[Any, Any] = {}


_NEVER_ASKED = (SamplingPoint(),)


class SamplingSchedule(Protocol):
    """Tells how far sampling has come."""

    early: bool
    """Whether it can be asked before the UNet runs."""

    def __call__(self, options: ExtraOptions) -> tuple[SamplingPoint, ...]:
        """Return the point of the running call, or one for each sample, not syncing per layer."""
        ...


class PatchedModel:
    """What all the slots of one patched model share: the run, the schedule, the host's attention.

    Parameters
    ----------
    run
        The stack of patches, bound to the model's layers.
    schedule
        Tells the progress of sampling.
    host_attention
        The host's own attention, for calls in which no patch has anything to do.
    cond_or_uncond
        What a user tells of the rows of a call; None: the host tells.
    """

    def __init__(
        self,
        run: BoundStack,
        schedule: SamplingSchedule,
        host_attention: OptimizedAttention,
        cond_or_uncond: Callable[[HostCall], Sequence[int]] | None = None,
    ) -> None:
        self.run = run
        self.cond_or_uncond = cond_or_uncond
        self.schedule = schedule
        self.host_attention = host_attention
        self.records = SigmaRecords()
        self._timed = run.time_dependent
        self._records_any = any(isinstance(p, Guidance) and p.records for p in run.stack)
        self.layers = {
            "attn2": frozenset(run.layers_over(TEXT)),
            "attn1": frozenset(run.layers_over(IMAGE)),
        }
        self._latest: tuple[tuple[object, ...], Call] | None = None
        self._running: Running | None = None

    def call(self, batch: int, options: ExtraOptions) -> Call:
        """Return the UNet call that is running; one object for all of its layers."""
        shape = options["original_shape"]
        points = self.schedule(options) if self._timed else _NEVER_ASKED
        degraded = tuple(options.get(DEGRADED, ()))
        record, sources = None, ()
        if self._records_any and not degraded and "sigmas" in options:
            step = sigmas_of_step(options, options["sigmas"])
            record, sources = self.records.of(step), tuple(options.get("uuids", ()))
        joined: JoinedRows | None = options.get(ROWS)
        repeats = self.repeats(batch, options) or ()
        roles = options.get(ROLES, _NONE)
        chunks = tuple(roles.get(n, n) for n in options.get("cond_or_uncond") or (0,))
        samples = _samples(options, batch // len(chunks)) if joined is None else None
        key = (
            *(chunks, batch, shape[-2], shape[-1], points, samples),
            *(degraded, record, sources, joined, repeats),
        )
        latest = self._latest  # one read: another thread may put a new one at any time
        if latest is None or latest[0] != key:
            if joined is None:
                call = _call(shape, batch, chunks, samples, points, degraded, record, sources)
            else:
                call = _joined_call(shape, joined, points, degraded, record, sources)
            latest = self._latest = (key, replace(call, repeats=repeats) if repeats else call)
        return latest[1]

    def repeats(self, batch: int, options: ExtraOptions) -> tuple[int, ...] | None:
        """Return how often the host has repeated each row's text; None: it does not tell."""
        if not self.run.asks_repeats:
            return ()
        return told_repeats(options.get(BATCH), options.get(ROWS), batch)

    def prepare(self, x: Tensor, text: Tensor | None, options: ExtraOptions) -> None:
        """Bring what the layers will read in a call to the device, before the UNet runs.

        Parameters
        ----------
        x
            What the UNet is given.
        text
            The text that it is given, (batch, tokens, channels); None: none.
        options
            The host's ``transformer_options`` of the call.
        """
        if not self.schedule.early:
            return  # what it would tell is of the call before
        call = self.call(len(x), {**options, "original_shape": x.shape})
        tokens = None if text is None else text.shape[1]
        self.run.prepare(call, x.dtype, x.device, tokens)

    def running(self, options: ExtraOptions) -> Running:
        """Return the UNet call that is running, with what its layers share."""
        running = self._running  # one read: another thread may put a new one at any time
        if (
            running is None
            or running.shape is not options["original_shape"]  # a host makes a new one each time
            or running.chunks is not options.get("cond_or_uncond")
            or running.sigmas is not options.get("sigmas")
            or running.rows is not options.get(ROWS)
        ):
            running = self._running = Running(self, options)
        return running


class Running:
    """One call of the UNet.

    Parameters
    ----------
    group
        Of the model's slots.
    options
        The host's ``extra_options`` of any layer in that call.
    """

    __slots__ = (
        "_fuses",
        "_host_attention",
        "_is_default",
        "call",
        "chunks",
        "others",
        "plan",
        "repeats",
        "rows",
        "shape",
        "sigmas",
    )

    def __init__(self, group: PatchedModel, options: ExtraOptions) -> None:
        self.shape: Sequence[int] = options["original_shape"]
        self.chunks = options.get("cond_or_uncond")
        self.sigmas = options.get("sigmas")
        self.rows = options.get(ROWS)
        self.call = group.call(self.shape[0], options)
        self.plan = group.run.plan(self.call, (TEXT,))
        self.repeats = group.repeats(self.shape[0], options)
        self.others: Others | None = options.get(OTHERS)
        self._host_attention = group.host_attention
        self._fuses: bool | None = None
        self._is_default: bool | None = None

    def fuses(self, device: torch.device, options: ExtraOptions) -> bool:
        """Whether our pass may take the place of the host's own attention."""
        if self._fuses is None:
            self._fuses = self._host_attention.gives_way(device, options)
        return self._fuses

    def is_default(self, options: ExtraOptions) -> bool:
        """Whether the host's own attention is what hosts compute, not what a user chose."""
        if self._is_default is None:
            self._is_default = self._host_attention.is_default(options)
        return self._is_default

    def find_repeats(self, group: PatchedModel, text: Tensor) -> None:
        """Find out how often the host has repeated texts, where it does not tell: once a call.

        Parameters
        ----------
        group
            Of the model's slots.
        text
            As the layers are given it, (batch, tokens, channels).
        """
        if self.repeats is None and group.run.names_words:
            self.repeats = find_repeats(text)
            if self.repeats:
                self.call = replace(self.call, repeats=self.repeats)
                self.plan = group.run.plan(self.call, (TEXT,))

    def site(
        self,
        layer: Layer,
        states: Tensor,
        options: ExtraOptions,
        keys: str,
        *,
        guess: bool = True,
    ) -> Site | None:
        """Return the site of a layer whose states are (B, N, C), over keys of that name.

        None: another patch has cut the batch up; its pieces are no pictures. `guess` as for
        ``grid_of``.
        """
        if states.shape[0] != self.call.batch:
            return None
        latent, features = options["original_shape"], options.get("activations_shape")
        grid = grid_of(layer, states.shape[1], latent, features, guess=guess)
        return (Site.over_text if keys == TEXT else Site.over_image)(layer, self.call, grid)


def _samples(options: ExtraOptions, rows: int) -> tuple[int, ...] | None:
    """Return which samples a chunk of so many rows shows; None: all, in order."""
    batch: HostBatch | None = options.get(BATCH)
    if batch is None:
        return shown_samples(options, rows)
    return batch.samples if batch.each == rows else None


def _times(points: Sequence[SamplingPoint], outer: Sequence[int]) -> dict[str, Any]:
    """Give the times of rows, by the row of the host's batch that each was made of."""
    if len(points) == 1:
        return points[0]._asdict()
    rows = [points[row % len(points)] for row in outer]
    return dict(zip(SamplingPoint._fields, zip(*rows, strict=True), strict=True))


def _call(
    shape: Sequence[int],
    batch: int,
    chunks: tuple[int, ...],
    samples: tuple[int, ...] | None,
    points: Sequence[SamplingPoint],
    degraded: tuple[int, ...],
    record: AttentionRecord | None,
    sources: tuple[Any, ...],
) -> Call:
    """Describe a call whose rows are the host's batch."""
    return Call(
        latent=(shape[-2], shape[-1]),
        batch=batch,
        chunks=chunks,
        samples=samples,
        degraded=degraded,
        record=None if record is None else CallRecord(record, sources, samples),
        **_times(points, range(batch)),
    )


def _joined_call(
    shape: Sequence[int],
    joined: JoinedRows,
    points: Sequence[SamplingPoint],
    degraded: tuple[int, ...],
    record: AttentionRecord | None,
    sources: tuple[Any, ...],
) -> Call:
    """Describe a call whose rows were made of the host's batch by a wrapper."""
    rows, outer, latent = joined.rows, joined.outer, (shape[-2], shape[-1])
    if outer is None:  # a user told: nobody knows of chunks
        outer, degraded, sources = rows.slots, (), ()
    of_chunk = [row // joined.each for row in outer]
    areas = [None if crop is None else Area(crop.top, crop.left, *latent) for crop in rows.crops]
    kept = None
    if record is not None:
        by_row = tuple(sources[chunk] for chunk in of_chunk) if sources else ()
        kept = CallRecord(record, by_row, rows.samples, areas)
    return Call(
        latent=latent,
        batch=len(rows.roles),
        chunks=rows.roles,
        slots=rows.slots,
        samples=rows.samples,
        crops=rows.crops,
        degraded=tuple(degraded[chunk] for chunk in of_chunk) if degraded else (),
        record=kept,
        **_times(points, outer),
    )
