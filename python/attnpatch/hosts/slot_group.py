# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What the replace slots of one model share: its patches at work, and the call that is running."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from attnpatch.hosts.host_attention import HostAttention
from attnpatch.hosts.other_patches import OTHERS, Others
from attnpatch.hosts.step_records import StepRecords
from attnpatch.hosts.token_grids import grid_of
from attnpatch.patches import Call, CallRecord, Guidance, Layer, Run, Site

ExtraOptions = Mapping[str, Any]
_NONE: Mapping[str, Any] = {}

DEGRADED = "attnpatch_degraded"
"""Where the options of a degraded pass say the place of its guidance, for each chunk."""


class Moment(NamedTuple):
    """Where a call stands in sampling; None: the host does not tell."""

    progress: float | None
    """0 at the start, 1 at the end, in the sense of start and end percents."""
    sigma: float | None = None
    timestep: float | None = None


_NEVER_ASKED = Moment(None)


class Clock(Protocol):
    """Tells how far sampling has come."""

    def __call__(self, options: ExtraOptions) -> Moment:
        """Return the moment of the running call, without a sync per layer."""
        ...


class SlotGroup:
    """What all the slots of one patched model share: the run, the clock, the host's attention.

    Parameters
    ----------
    run
        The stack of patches, bound to the model's layers.
    clock
        Tells the progress of sampling.
    plain
        The host's own attention, for calls in which no patch has anything to do.
    """

    def __init__(self, run: Run, clock: Clock, plain: HostAttention) -> None:
        self.run = run
        self.clock = clock
        self.plain = plain
        self.records = StepRecords()
        self._timed = run.timed
        self._records_any = any(isinstance(p, Guidance) and p.records for p in run.stack)
        self.layers = {"attn2": frozenset(run.cross_layers), "attn1": frozenset(run.self_layers)}
        self._latest: tuple[tuple[object, ...], Call] | None = None
        self._running: Running | None = None

    def call(self, batch: int, options: ExtraOptions) -> Call:
        """Return the UNet call that is running; one object for all of its layers."""
        shape = options["original_shape"]
        chunks = tuple(options.get("cond_or_uncond") or (0,))
        samples = _shown(options, batch // len(chunks))
        moment = self.clock(options) if self._timed else _NEVER_ASKED
        degraded = tuple(options.get(DEGRADED, ()))
        record, sources = None, ()
        if self._records_any and not degraded and "sigmas" in options:
            record, sources = self.records.of(options["sigmas"]), tuple(options.get("uuids", ()))
        key = (chunks, batch, shape[-2], shape[-1], moment, samples, degraded, record, sources)
        latest = self._latest  # one read: another thread may put a new one at any time
        if latest is None or latest[0] != key:
            call = Call(
                latent=(shape[-2], shape[-1]),
                batch=batch,
                chunks=chunks,
                progress=moment.progress,
                sigma=moment.sigma,
                timestep=moment.timestep,
                samples=samples,
                degraded=degraded,
                record=None if record is None else CallRecord(record, sources, samples),
            )
            latest = self._latest = (key, call)
        return latest[1]

    def running(self, options: ExtraOptions) -> Running:
        """Return the UNet call that is running, with what its layers share."""
        running = self._running  # one read: another thread may put a new one at any time
        if (
            running is None
            or running.shape is not options["original_shape"]  # a host makes a new one each time
            or running.chunks is not options.get("cond_or_uncond")
            or running.sigmas is not options.get("sigmas")
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
        "_is_default",
        "_plain",
        "call",
        "chunks",
        "others",
        "plan",
        "shape",
        "sigmas",
    )

    def __init__(self, group: SlotGroup, options: ExtraOptions) -> None:
        self.shape: Sequence[int] = options["original_shape"]
        self.chunks = options.get("cond_or_uncond")
        self.sigmas = options.get("sigmas")
        self.call = group.call(self.shape[0], options)
        self.plan = group.run.cross_plan(self.call)
        self.others: Others | None = options.get(OTHERS)
        self._plain = group.plain
        self._fuses: bool | None = None
        self._is_default: bool | None = None

    def fuses(self, device: torch.device, options: ExtraOptions) -> bool:
        """Whether our pass may take the place of the host's own attention."""
        if self._fuses is None:
            self._fuses = self._plain.gives_way(device, options)
        return self._fuses

    def is_default(self, options: ExtraOptions) -> bool:
        """Whether the host's own attention is what hosts compute, not what a user chose."""
        if self._is_default is None:
            self._is_default = self._plain.is_default(options)
        return self._is_default

    def site(
        self,
        layer: Layer,
        states: Tensor,
        options: ExtraOptions,
        attention: str,
        *,
        guess: bool = True,
    ) -> Site | None:
        """Return the site of a layer whose states are (B, N, C).

        None: another patch has cut the batch up; its pieces are no pictures. `guess` as for
        ``grid_of``.
        """
        if states.shape[0] != self.call.batch:
            return None
        grid = grid_of(layer, states.shape[1], options, guess=guess)
        return Site(layer, self.call, grid, attention)


def _shown(options: ExtraOptions, rows: int) -> tuple[int, ...] | None:
    """Return which pictures a chunk of so many rows shows; None: all, in order."""
    window = options.get("ad_params", _NONE).get("sub_idxs")  # AnimateDiff's
    if window is not None:
        return tuple(window)
    window = options.get("context_window")  # the host's own; it stays there when its call is over
    if window is None or getattr(window, "dim", 0) != 0 or len(window.index_list) != rows:
        return None
    return tuple(window.index_list)
