# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The call of a patched UNet that is running, and how it is described to the patches."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from attnpatch.engine import BoundStack, Call, SamplingPoint
from attnpatch.hosts.diffusers.guidance import recorded_role, source_rows
from attnpatch.hosts.host_call import HostCall, Rows
from attnpatch.patches import AttentionRecord, CallRecord

if TYPE_CHECKING:
    from attnpatch.hosts.diffusers.row_folding import FoldedCall
    from attnpatch.hosts.diffusers.running import Running


class Restorable(Protocol):
    """What was changed for a call, and is put back after it."""

    def restore(self) -> Any:
        """Put back what was there."""
        ...


class Patched(Protocol):
    """What is attached to a UNet, as far as its layers ask."""

    running: RunningCall
    layers: tuple[Any, ...]
    """Those with a processor of ours."""
    shared_softmax: bool
    """Whether a patch shares the text's softmax."""
    trained: bool
    """Whether tensors of a patch require a gradient."""
    reduces: bool
    """Whether a patch may give keys and values fewer tokens."""
    guides_text: bool
    """Whether a patch may need keys and values of a text of its own."""


class RunningCall(threading.local):
    """The call of the UNet that is running in this thread."""

    run: BoundStack | None = None  # what is attached, as it was when the call began
    call: Call | None = None
    rows: Rows | None = None
    given: tuple[tuple[Any, ...], dict[str, Any]] | None = None  # arguments, for guidance
    reached: bool = False  # whether it came to a patched layer
    checkpointing: Restorable | None = None
    # Rows and guidance of each row, in a call that runs degraded passes.
    degraded: tuple[Rows, tuple[int, ...]] | None = None
    folded: FoldedCall | None = None  # the call without rows that are equal to others
    caches: dict[Any, Any] | None = None  # other packages', as degraded passes left them
    perturbed: tuple[Restorable, ...] = ()  # taken over for this call alone

    def __init__(self) -> None:
        # Height and width of what each spatial transformer is given, as far as the call came.
        self.features: dict[int, tuple[int, int]] = {}


def host_call_of(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], running: Running | None
) -> HostCall:
    """Return a call by what the UNet is given and which pipeline runs."""
    names = ("sample", "timestep", "encoder_hidden_states")
    options = dict(zip(names, args, strict=False)) | dict(kwargs)
    sample, timestep, text = (options.pop(name, None) for name in names)
    pipeline = running.pipeline if running else None
    return HostCall(sample, timestep, text, options=options, pipeline=pipeline)


def describe_call(
    run: BoundStack | None,
    host_call: HostCall,
    rows: Rows,
    points: Sequence[SamplingPoint],
    degraded: tuple[int, ...],
) -> Call:
    """Describe a call to the patches: a video's frames are rows of their own.

    Parameters
    ----------
    run
        What is attached.
    host_call, rows
        The call, and what each of its rows is.
    points
        Where all rows stand in sampling, or each of them.
    degraded
        Of each row of a call of degraded passes, which guidance asked for it; else empty.
    """
    sample = host_call.sample
    frames = int(sample.shape[2]) if sample.ndim == 5 else 1
    if len(points) not in (1, len(rows.roles)):
        points = points[:1]
    slots = tuple(slot * frames + f for slot in rows.slots for f in range(frames))
    record = None
    if not degraded:
        role = recorded_role(rows.roles)
        sources = [row * frames + f for row in source_rows(rows, role) for f in range(frames)]
        record = CallRecord(AttentionRecord(role), places=slots, rows=sources)
    times = [_by_frame(values, frames) for values in zip(*points, strict=True)]
    return Call(
        latent=(sample.shape[-2], sample.shape[-1]),
        batch=len(slots),
        chunks=_by_frame(rows.roles, frames),
        samples=samples_of(run, rows, frames, slots),
        slots=slots,
        crops=_by_frame(rows.crops, frames),
        progress=times[0] if len(points) > 1 else points[0].progress,
        sigma=times[1] if len(points) > 1 else points[0].sigma,
        timestep=times[2] if len(points) > 1 else points[0].timestep,
        degraded=_by_frame(degraded, frames),
        record=record,
    )


def _by_frame(values: Sequence[Any], frames: int) -> tuple[Any, ...]:
    """Give what each row has to each of its frames."""
    return tuple(value for value in values for _ in range(frames))


def samples_of(
    run: BoundStack | None, rows: Rows, frames: int, slots: Sequence[int]
) -> tuple[int, ...] | None:
    """Which sample each row is, where several images are made of each prompt.

    Pipelines put the images of one prompt next to each other. As many pictures as a video has
    frames are one for each of these, in every video.
    """
    if rows.samples is not None and rows.latents is None:
        return tuple(sample * frames + f for sample in rows.samples for f in range(frames))
    # The last picture of some serves all after it: those ask for no other counting.
    told = [p for p in (run.stack if run else ()) if not getattr(p, "repeat_last", False)]
    counts = {patch.samples for patch in told} - {1}
    latents = rows.latents or max(slots) + 1
    if len(counts) != 1 or latents in counts:
        return rows.samples
    (count,) = counts
    if latents // frames % count:  # no video is of two pictures
        return tuple(slot % frames for slot in slots) if count == frames > 1 else rows.samples
    each = latents // count
    return tuple(sample // each for sample in rows.samples or slots)
