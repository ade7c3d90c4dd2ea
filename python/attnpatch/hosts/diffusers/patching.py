# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The patches of one UNet: its layers' stand-ins, and the state of the call that is running."""

from __future__ import annotations

import copy
import logging
import operator
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from attnpatch.hosts.diffusers.branching import register
from attnpatch.hosts.diffusers.clock import Schedule, TimestepReader
from attnpatch.hosts.diffusers.degraded import GuidedCall, recorded_kind
from attnpatch.hosts.diffusers.guidance import chunks_of
from attnpatch.hosts.diffusers.layers import cross_attention, read_layer_table, self_attention
from attnpatch.hosts.diffusers.patched_layer import CrossLayer, PatchedLayer, SelfLayer
from attnpatch.hosts.diffusers.prediction import Prediction
from attnpatch.hosts.recognition import unwrapped
from attnpatch.patches import (
    AttentionRecord,
    Call,
    PatchStack,
    Report,
    Run,
    degraded_passes,
)

logger = logging.getLogger("attnpatch")

_ATTRIBUTE = "_attnpatch_patching"


class _Running(threading.local):
    """The call of the UNet that is running in this thread."""

    run: Run | None = None
    call: Call | None = None
    reached: bool = False  # whether it came to a patched layer
    # Kind and guidance of each chunk, in a call that runs degraded passes.
    degraded: tuple[tuple[int, ...], tuple[int, ...]] | None = None


class Patching:
    """All that is attached to one UNet."""

    def __init__(self, unet: Any) -> None:
        self.table = read_layer_table(unet)
        self.cross_layers = tuple(
            CrossLayer(self, layer, cross_attention(unet, layer.name)) for layer in self.table
        )
        self.self_layers = tuple(
            SelfLayer(self, layer, self_attention(unet, layer.name)) for layer in self.table
        )
        self.layers: tuple[PatchedLayer, ...] = ()  # those with a stand-in
        self.number = register(self)
        self.running = _Running()
        self.stacks: dict[object, PatchStack] = {}  # by what attached them, in order
        self.chunks: tuple[int, ...] | None = None
        self.joint = False
        self.reduces = False
        self.attention: Tensor | None = None  # what the latest guided call recorded
        self._run: Run | None = None
        self._pipeline: weakref.ref[Any] | None = None
        self._read_timestep = TimestepReader()
        self._schedule: tuple[Any, Schedule] = (None, Schedule())
        self._hooks: tuple[Any, ...] = ()
        self._lock = threading.Lock()
        self._checked = False
        self._told: set[str] = set()

    @staticmethod
    def of(unet: Any) -> Patching | None:
        """Return what is attached to `unet`."""
        return unet.__dict__.get(_ATTRIBUTE)

    @property
    def stack(self) -> PatchStack:
        """All patches that are attached, in order."""
        return PatchStack([patch for stack in self.stacks.values() for patch in stack])

    def report(self) -> Report:
        """Say where the patches act."""
        return self.stack.bind(self.table).report()

    def add(
        self,
        key: object,
        stack: PatchStack,
        unet: Any,
        pipeline: Any,
        chunks: Sequence[int] | None,
    ) -> None:
        """Attach the patches of `stack`; raises before anything changes."""
        chunks = None if chunks is None else check_chunks(chunks)
        if chunks is not None and self.chunks not in (None, chunks):
            raise ValueError(
                f"cond_or_uncond: what is attached already has {self.chunks}, got {chunks}"
            )
        self._bind({**self.stacks, key: stack})
        self.chunks = chunks or self.chunks
        if pipeline is not None:
            self.follow(pipeline)
        if not self._hooks:
            self._hooks = (
                unet.register_forward_pre_hook(self.begin_call, with_kwargs=True),
                unet.register_forward_hook(self.end_call, always_call=True, with_kwargs=True),
            )
            setattr(unet, _ATTRIBUTE, self)
        self._settle()

    def follow(self, pipeline: Any) -> None:
        """Take it for the pipeline that runs the UNet, whose guidance and schedule count."""
        self._pipeline = weakref.ref(pipeline)

    def remove(self, key: object, unet: Any) -> None:
        """Detach what `key` attached; with the last one the UNet is as it was before."""
        left = {k: stack for k, stack in self.stacks.items() if k is not key}
        if len(left) == len(self.stacks):
            return
        self._bind(left)
        self._settle()
        if left:
            return
        for hook in self._hooks:
            hook.remove()
        self._hooks = ()
        delattr(unet, _ATTRIBUTE)

    def _bind(self, stacks: Mapping[object, PatchStack]) -> None:
        stack = PatchStack([patch for stack in stacks.values() for patch in stack])
        run = stack.bind(self.table)
        self.joint = any(getattr(patch, "joint", False) for patch in stack)
        self.reduces = run.reduces
        self.stacks, self._run, self._checked = dict(stacks), run, False

    def _settle(self) -> None:
        """Put stand-ins where patches may act, and the originals back everywhere else."""
        run = self._run
        assert run is not None
        # All of cross-attention: so a compiled UNet stays when weights, windows or layers change.
        wanted: list[PatchedLayer] = list(self.cross_layers) if run.cross_layers else []
        wanted += [self.self_layers[layer.index] for layer in run.self_layers]
        gone = [layer for layer in self.layers if layer not in wanted]
        foreign = {type(p).__name__ for p in (layer.restore() for layer in gone) if p}
        if foreign:
            logger.warning(
                "detach: %s replaced attention processors after attach and stays in place",
                ", ".join(sorted(foreign)),
            )
        self.layers = tuple(wanted)
        for layer in self.layers:
            layer.take_over()

    @torch.compiler.disable
    def begin_call(self, unet: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Learn about the call of the UNet that begins: its forward pre-hook."""
        sample = args[0] if args else kwargs["sample"]
        timestep = args[1] if len(args) > 1 else kwargs["timestep"]
        run, pipeline = self._run, self._pipeline and self._pipeline()
        if any(layer.replaced for layer in self.layers):
            self._take_over_again()
        batch = int(sample.shape[0])
        if sample.ndim == 5:  # a video: each frame (dimension 2) is a row of its own
            batch *= int(sample.shape[2])
        running = self.running
        chunks, degraded = running.degraded or (self._chunks_of(pipeline, batch), ())
        moment = self._schedule_of(pipeline)(self._read_timestep(timestep))
        running.run, running.reached = run, False
        running.call = Call(
            latent=(sample.shape[-2], sample.shape[-1]),
            batch=batch,
            chunks=chunks,
            samples=self._samples(run, batch // len(chunks)),
            progress=moment.progress,
            sigma=moment.sigma,
            timestep=moment.timestep,
            degraded=degraded,
            record=None if degraded else AttentionRecord(recorded_kind(chunks)),
        )

    @torch.compiler.disable
    def end_call(
        self, unet: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        """Forget the call, see once that it came by our layers, and guide: the forward hook."""
        running = self.running
        run, call, reached = running.run, running.call, running.reached
        # Checkpointing computes the layers a second time, after the call.
        if not (torch.is_grad_enabled() and getattr(unet, "is_gradient_checkpointing", False)):
            running.run = running.call = None
        if output is None:  # it raised
            return None
        if not (reached or self._checked) and self.layers:
            raise RuntimeError(
                f"attach: none of the {len(self.layers)} patched attention layers ran in this call "
                f"of {type(unet).__name__}; something replaced its attention modules after attach"
            )
        self._checked = True
        if running.degraded or run is None or call is None:
            return None
        return self._guide(unet, run, call, args, kwargs, output)

    def _guide(
        self,
        unet: Any,
        run: Run,
        call: Call,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
    ) -> Any:
        """Return the output with guidance in it; None: as it is."""
        passes = degraded_passes(run.stack, call.latent, call.progress)
        if not passes or not call.sigma:  # without noise there is nothing to guide
            return None
        pipeline = self._pipeline and self._pipeline()
        config = getattr(getattr(pipeline, "scheduler", None), "config", {})
        prediction = Prediction.at(call.sigma, self._schedule_of(pipeline), config)
        cfg_scale = getattr(pipeline, "guidance_scale", 1.0)
        cfg_scale = cfg_scale if isinstance(cfg_scale, float | int) else 1.0
        guided = GuidedCall(call, passes, prediction, cfg_scale)
        # What torch.compile made of the UNet, where the pipeline has that.
        compiled = getattr(pipeline, "unet", None)
        target = compiled if unwrapped(compiled) is unet else unet

        def run_unet(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            self.running.degraded = guided.degraded
            try:
                return target(*args, **kwargs)
            finally:
                self.running.degraded = None

        result = guided.output(args, kwargs, output, run_unet)
        self.attention = guided.attention
        return result

    def _take_over_again(self) -> None:
        """Add the patches to processors that others put in the place of ours."""
        with self._lock:
            replaced = [p for p in (layer.take_over() for layer in self.layers) if p is not None]
        if replaced:
            names = ", ".join(sorted({type(p).__name__ for p in replaced}))
            self._tell(
                f"{len(replaced)} attention processors were replaced after attach, by {names}: "
                "the patches are added to those"
            )

    def _chunks_of(self, pipeline: Any, batch: int) -> tuple[int, ...]:
        if self.chunks is not None:
            if batch % len(self.chunks):
                raise ValueError(
                    f"cond_or_uncond: {self.chunks} makes {len(self.chunks)} equal chunks, got a "
                    f"batch of {batch} rows"
                )
            return self.chunks
        chunks = chunks_of(pipeline, batch)
        if chunks is None and batch % 2 == 0:
            self._tell(
                f"all {batch} rows are taken for cond, since no pipeline says which are uncond; "
                "attach to the pipeline, or give cond_or_uncond: (0,) for this, (1, 0) for the "
                "batches [uncond, cond] of classifier-free guidance"
            )
        return chunks or (0,)

    def _schedule_of(self, pipeline: Any) -> Schedule:
        scheduler = getattr(pipeline, "scheduler", None)
        latest = self._schedule  # one read: another thread may put a new one at any time
        if latest[0] is not scheduler:
            latest = self._schedule = (scheduler, Schedule(scheduler))
        return latest[1]

    def _samples(self, run: Run | None, rows: int) -> tuple[int, ...] | None:
        """Which picture each row of a chunk is, where several images are made of each prompt.

        Pipelines put the images of one prompt next to each other.
        """
        counts = {getattr(patch, "pictures", 1) for patch in run.stack} if run else set()
        counts -= {1}
        if len(counts) != 1 or rows in counts or rows % min(counts):
            return None
        each = rows // min(counts)
        return tuple(row // each for row in range(rows))

    def _tell(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            logger.warning(message)

    def __deepcopy__(self, memo: dict[int, Any]) -> Patching:
        twin = memo[id(self)] = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.number = register(twin)
        twin.running = _Running()
        twin._lock = threading.Lock()
        twin._read_timestep = TimestepReader()
        twin._told = set(self._told)
        twin.stacks = {object(): stack for stack in self.stacks.values()}
        for name in ("cross_layers", "self_layers", "layers"):
            setattr(twin, name, copy.deepcopy(getattr(self, name), memo))
        twin._hooks = copy.deepcopy(self._hooks, memo)
        return twin


def check_chunks(chunks: Sequence[int]) -> tuple[int, ...]:
    """Return a user's ``cond_or_uncond`` as a tuple.

    Raises
    ------
    ValueError
        If it is not a sequence of whole numbers of at least 0.
    """
    try:
        kinds = tuple(operator.index(kind) for kind in chunks)
    except TypeError:
        kinds = ()
    if not kinds or min(kinds) < 0:
        raise ValueError(
            "cond_or_uncond: expected the kind of each chunk of a batch, 0 for cond and 1 for "
            f"uncond, such as (1, 0); got {chunks!r}"
        )
    return kinds
