# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The patches of one UNet: its layers' stand-ins, and the state of the call that is running."""

from __future__ import annotations

import copy
import logging
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from attnpatch.hosts.diffusers.caches import check_caches, deepcache_of, own_cache
from attnpatch.hosts.diffusers.checkpointing import Checkpointing
from attnpatch.hosts.diffusers.clock import Schedule, TimestepReader
from attnpatch.hosts.diffusers.degraded import GuidedCall, kept, recorded_kind, source_rows
from attnpatch.hosts.diffusers.layers import read_layer_table, spatial_transformers
from attnpatch.hosts.diffusers.patched_layer import (
    CrossLayer,
    FeatureShape,
    PatchedLayer,
    SelfLayer,
)
from attnpatch.hosts.diffusers.pipelines import UNKNOWN_ROWS
from attnpatch.hosts.diffusers.prediction import Prediction
from attnpatch.hosts.diffusers.processor import is_perturbed, put_originals_back
from attnpatch.hosts.diffusers.rows import rows_of
from attnpatch.hosts.diffusers.running import Running, running_pipeline
from attnpatch.hosts.host_call import CondOrUncond, HostCall, Rows, check_kinds, told_rows
from attnpatch.patches import (
    COND,
    AttentionRecord,
    Call,
    CallRecord,
    DegradedPass,
    Guidance,
    PatchStack,
    Report,
    Run,
    degraded_passes,
)

logger = logging.getLogger("attnpatch")

_ATTRIBUTE = "_attnpatch_patching"
_OF_THIS_PROCESS = ("running", "_lock", "_read_timestep", "_pipeline", "_schedules", "_told")


class _Running(threading.local):
    """The call of the UNet that is running in this thread."""

    run: Run | None = None
    call: Call | None = None
    rows: Rows | None = None
    given: tuple[tuple[Any, ...], dict[str, Any]] | None = None  # arguments, for guidance
    reached: bool = False  # whether it came to a patched layer
    checkpointing: Checkpointing | None = None
    # Rows and guidance of each row, in a call that runs degraded passes.
    degraded: tuple[Rows, tuple[int, ...]] | None = None
    caches: dict[Any, Any] | None = None  # other packages', as degraded passes left them
    perturbed: tuple[PatchedLayer, ...] = ()  # taken over for this call alone

    def __init__(self) -> None:
        # Height and width of what each spatial transformer is given, as far as the call came.
        self.features: dict[int, tuple[int, int]] = {}


class Patching:
    """All that is attached to one UNet."""

    def __init__(self, unet: Any) -> None:
        self.table = read_layer_table(unet)
        blocks = [unet.get_submodule(layer.name) for layer in self.table]
        self.cross_layers, self.self_layers = (
            tuple(kind(self, layer, block) for layer, block in zip(self.table, blocks, strict=True))
            for kind in (CrossLayer, SelfLayer)
        )
        self.layers: tuple[PatchedLayer, ...] = ()  # those with a stand-in
        self._renew()
        self.stacks: dict[object, PatchStack] = {}  # by what attached them, in order
        self.cond_or_uncond: CondOrUncond | None = None
        self.joint = False
        self.trained = False
        self.reduces = False
        self.attention: Tensor | None = None  # what the latest guided call recorded
        self._run: Run | None = None
        self._pipeline: weakref.ref[Any] | None = None
        self._hooks: tuple[Any, ...] = ()
        self._checked = False
        self._told: set[str] = set()

    def _renew(self) -> None:
        """Make what no two copies share."""
        self.running = _Running()
        self._lock = threading.Lock()
        self._read_timestep = TimestepReader()
        self._schedules: weakref.WeakKeyDictionary[Any, Schedule] = weakref.WeakKeyDictionary()

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
        cond_or_uncond: CondOrUncond | None,
        *,
        replace: bool = False,
    ) -> None:
        """Attach the patches of `stack`, beside or instead of others; raises before any change."""
        told = cond_or_uncond
        if told is not None and not callable(told):
            told = check_kinds(told)
        kept, known = ({}, None) if replace else (self.stacks, self.cond_or_uncond)
        if told is not None and known not in (None, told):
            raise ValueError(f"cond_or_uncond: what is attached already has {known}, got {told}")
        before = PatchStack() if replace else self.stack
        self._bind({**kept, key: stack})
        self.cond_or_uncond = told or known
        if pipeline is not None:
            self.follow(pipeline)
        if not self._hooks:
            self._hooks = (
                unet.register_forward_pre_hook(self.begin_call, with_kwargs=True),
                unet.register_forward_hook(self.end_call, always_call=True, with_kwargs=True),
                *(
                    module.register_forward_pre_hook(FeatureShape(self, spatial), with_kwargs=True)
                    for spatial, module in spatial_transformers(unet, self.table).items()
                ),
            )
            setattr(unet, _ATTRIBUTE, self)
        self._settle()
        again = sorted({type(patch).__name__ for patch in stack if patch in before})
        if again:
            self._tell(
                f"attach: an equal {' and '.join(again)} is attached already, and now acts twice; "
                "detach(model) takes off all that is attached, attach(…, replace=True) what was "
                "attached before"
            )

    def follow(self, pipeline: Any) -> None:
        """Take it for the pipeline whose schedule counts where none is running."""
        self._pipeline = weakref.ref(pipeline)

    def remove(self, key: object, unet: Any) -> None:
        """Detach what `key` attached; with the last one the UNet is as it was before."""
        self._keep({k: stack for k, stack in self.stacks.items() if k is not key}, unet)

    def clear(self, unet: Any) -> None:
        """Detach all: the UNet is as it was before."""
        self._keep({}, unet)

    def _keep(self, left: Mapping[object, PatchStack], unet: Any) -> None:
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
        put_originals_back(getattr(unet, "original_attn_processors", None) or {})

    def _bind(self, stacks: Mapping[object, PatchStack]) -> None:
        stack = PatchStack([patch for stack in stacks.values() for patch in stack])
        run = stack.bind(self.table)
        self.joint = any(getattr(patch, "joint", False) for patch in stack)
        self.trained = any(patch.requires_grad for patch in stack)
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
        if unet.__dict__.get("_is_replica"):
            raise TypeError(
                "model: expected a UNet that is given whole batches, but DataParallel scatters "
                "their rows over devices, so that it cannot be known which are cond and which "
                "uncond; use one device, or DistributedDataParallel"
            )
        run, running = self._run, self.running
        if any(layer.replaced for layer in self.layers):
            self._take_over_again()
        degraded, places = running.degraded or (None, ())
        pipeline = running_pipeline()
        host_call = _host_call(args, kwargs, pipeline)
        rows = degraded or self._rows_of(pipeline, host_call)
        guides = any(isinstance(patch, Guidance) for patch in run.stack) if run else False
        running.run, running.reached, running.rows = run, False, rows
        running.features = {}
        running.call = self._call(run, pipeline, host_call, rows, places)
        if guides and not degraded:
            check_caches(unet)
            running.perturbed = self._take_over_perturbed()
            running.given = kept(args), kept(dict(kwargs))
        running.checkpointing = Checkpointing(unet, self)

    def _call(
        self,
        run: Run | None,
        pipeline: Running | None,
        host_call: HostCall,
        rows: Rows,
        places: tuple[int, ...],
    ) -> Call:
        """Describe a call to the patches: a video's frames are rows of their own."""
        sample = host_call.sample
        frames = int(sample.shape[2]) if sample.ndim == 5 else 1
        schedule = self._schedule_of(pipeline)
        points = [schedule(t) for t in self._read_timestep(host_call.timestep)]
        if len(points) not in (1, len(rows.kinds)):
            points = points[:1]
        slots = tuple(slot * frames + f for slot in rows.slots for f in range(frames))
        record = None
        if not places:
            kind = recorded_kind(rows.kinds)
            sources = [row * frames + f for row in source_rows(rows, kind) for f in range(frames)]
            record = CallRecord(AttentionRecord(kind), places=slots, rows=sources)
        times = [_by_frame(values, frames) for values in zip(*points, strict=True)]
        return Call(
            latent=(sample.shape[-2], sample.shape[-1]),
            batch=len(slots),
            chunks=_by_frame(rows.kinds, frames),
            samples=_samples(run, rows, frames, slots),
            slots=slots,
            crops=_by_frame(rows.crops, frames),
            progress=times[0] if len(points) > 1 else points[0].progress,
            sigma=times[1] if len(points) > 1 else points[0].sigma,
            timestep=times[2] if len(points) > 1 else points[0].timestep,
            degraded=_by_frame(places, frames),
            record=record,
        )

    @torch.compiler.disable
    def end_call(
        self, unet: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        """Forget the call, see once that it came by our layers, and guide: the forward hook."""
        try:
            return self._end_call(unet, output)
        finally:
            if not self.running.degraded:
                for layer in self.running.perturbed:
                    layer.restore()
                self.running.perturbed = ()

    def _end_call(self, unet: Any, output: Any) -> Any:
        running = self.running
        run, call, reached = running.run, running.call, running.reached
        rows, given, running.given = running.rows, running.given, None
        running.run = running.call = None
        if running.checkpointing is not None:
            running.checkpointing.restore()
            running.checkpointing = None
        if output is None:  # it raised
            return None
        if not (reached or self._checked) and self.layers:
            raise RuntimeError(
                f"attach: none of the {len(self.layers)} patched attention layers ran in this call "
                f"of {type(unet).__name__}; something replaced its attention modules after attach"
            )
        self._checked = True
        if running.degraded or run is None or call is None or rows is None or given is None:
            return None
        return self._guide(unet, run, call, rows, given, output)

    def _guide(
        self,
        unet: Any,
        run: Run,
        call: Call,
        rows: Rows,
        given: tuple[tuple[Any, ...], dict[str, Any]],
        output: Any,
    ) -> Any:
        """Return the output with guidance in it; None: as it is."""
        firsts = [rows.slots.index(slot) for slot in range(max(rows.slots) + 1)]
        frames = call.batch // len(rows.kinds)
        points = call.points if len(call.points) == 1 else call.points[::frames]
        progress: Any = points[0].progress
        if len(points) > 1:
            progress = [points[row].progress for row in firsts]
        passes = degraded_passes(run.stack, call.latent, progress)
        if not passes or rows.aside or not all(point.sigma for point in points):
            return None  # without noise there is nothing to guide
        pipeline = running_pipeline()
        _check_guided(passes, rows, pipeline)
        scheduler = self._scheduler_of(pipeline)
        config = getattr(scheduler, "config", {})
        sigmas = [point.sigma or 0.0 for point in points]
        prediction = Prediction.of_rows(sigmas, self._schedule_of(pipeline), config, output[0])
        cfg_scale = pipeline.setting("guidance_scale") if pipeline else 1.0
        cfg_scale = cfg_scale if isinstance(cfg_scale, float | int) else 1.0
        skipped = None if deepcache_of(unet) is None else self.attention
        guided = GuidedCall(call, rows, passes, prediction, cfg_scale, skipped)
        # What torch.compile made of the UNet, where the pipeline has that: no other wrapper, whose
        # own call has not ended yet.
        compiled = getattr(pipeline.pipeline, "unet", None) if pipeline else None
        target = compiled if getattr(compiled, "_orig_mod", None) is unet else unet

        def run_unet(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            self.running.degraded = guided.degraded
            self.running.caches = caches = self.running.caches or {}
            try:
                with own_cache(unet, caches, guided.degraded):
                    return target(*args, **kwargs)
            finally:
                self.running.degraded = None

        result = guided.output(*given, output, run_unet)
        if guided.attention is not None:
            self.attention = guided.attention
        return result

    def _take_over_perturbed(self) -> tuple[PatchedLayer, ...]:
        """Take over, for one call, what a pipeline perturbs itself: degraded passes must not be."""
        found = [
            layer
            for layer in self.self_layers
            if layer.stand_in is None and is_perturbed(getattr(layer.module, "processor", None))
        ]
        for layer in found:
            layer.take_over()
        return tuple(found)

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

    def _rows_of(self, running: Running | None, call: HostCall) -> Rows:
        if self.cond_or_uncond is not None:
            return told_rows(self.cond_or_uncond, call)
        rows = rows_of(running, call)
        if rows is not None:
            return rows
        if self._run is not None and self._run.tells_kinds_apart:
            runs = "no pipeline is running"
            if running is not None:
                name = type(running.pipeline).__name__
                reason = UNKNOWN_ROWS.get(name)
                runs = f"{name} does not tell" + (f" ({reason})" if reason else "")
            raise ValueError(
                f"cond_or_uncond: expected to be told which of the {call.batch} rows of this call "
                f"are cond and which uncond, for {runs}; give attach or patch_model (0,) where all "
                "are cond, (1, 0) for the batches [uncond, cond] of classifier-free guidance, a "
                "kind for each row, or a callable that gives it for a call"
            )
        return Rows.of_chunks((COND,), call.batch)

    def _scheduler_of(self, running: Running | None) -> Any:
        """Return the scheduler of the pipeline that runs, else of the one that was attached to."""
        pipeline = running.pipeline if running else self._pipeline and self._pipeline()
        return getattr(pipeline, "scheduler", None)

    def _schedule_of(self, running: Running | None) -> Schedule:
        scheduler = self._scheduler_of(running)
        if scheduler is None:
            return _STABLE_DIFFUSION
        schedule = self._schedules.get(scheduler)
        if schedule is None:
            schedule = self._schedules[scheduler] = Schedule(scheduler)
        return schedule

    def _tell(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            logger.warning(message)

    def __getstate__(self) -> dict[str, Any]:
        # Neither what `_renew` makes nor what is of this process: a pipeline, its schedule.
        state = {k: v for k, v in self.__dict__.items() if k not in _OF_THIS_PROCESS}
        state["stacks"] = list(self.stacks.values())  # what attached them does not come along
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._renew()
        self.stacks = {object(): stack for stack in state["stacks"]}
        self._pipeline, self._told = None, set()

    def __deepcopy__(self, memo: dict[int, Any]) -> Patching:
        twin = memo[id(self)] = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._renew()
        twin._told = set(self._told)
        twin.stacks = {object(): stack for stack in self.stacks.values()}
        for name in ("cross_layers", "self_layers", "layers"):
            setattr(twin, name, copy.deepcopy(getattr(self, name), memo))
        twin._hooks = copy.deepcopy(self._hooks, memo)
        return twin


_STABLE_DIFFUSION = Schedule()


def _host_call(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], running: Running | None
) -> HostCall:
    names = ("sample", "timestep", "encoder_hidden_states")
    found = dict(zip(names, args, strict=False)) | dict(kwargs)
    sample, timestep, text = (found.pop(name, None) for name in names)
    pipeline = running.pipeline if running else None
    return HostCall(sample, timestep, text, options=found, pipeline=pipeline)


def _by_frame(values: Sequence[Any], frames: int) -> tuple[Any, ...]:
    """Give what each row has to each of its frames."""
    return tuple(value for value in values for _ in range(frames))


def _samples(
    run: Run | None, rows: Rows, frames: int, slots: Sequence[int]
) -> tuple[int, ...] | None:
    """Which picture each row is, where several images are made of each prompt.

    Pipelines put the images of one prompt next to each other.
    """
    if rows.samples is not None and rows.latents is None:
        return tuple(sample * frames + f for sample in rows.samples for f in range(frames))
    counts = {getattr(patch, "pictures", 1) for patch in run.stack} if run else set()
    counts -= {1}
    latents = rows.latents or max(slots) + 1
    if len(counts) != 1 or latents in counts or latents % min(counts):
        return rows.samples
    each = latents // min(counts)
    return tuple(sample // each for sample in rows.samples or slots)


def _check_guided(passes: Sequence[DegradedPass], rows: Rows, running: Running | None) -> None:
    """Raise where guidance can not see what it needs of a step in one call."""
    names = ", ".join(type(one.guidance).__name__ for one in passes)
    if rows.split:
        guider = type(getattr(running and running.pipeline, "guider", None)).__name__
        raise ValueError(
            f"{names}: expected cond and uncond in one call of the UNet, but {guider} runs them in "
            "calls of their own; use a pipeline that batches them, or a guider with one prediction"
        )
    if rows.read:
        pipeline = type(getattr(running, "pipeline", None)).__name__
        raise ValueError(
            f"{names}: expected a pipeline that does not read attention itself, got {pipeline} "
            "with guidance of its own; turn that off, or use the plain pipeline"
        )
    kinds: list[set[int]] = [set() for _ in range(max(rows.slots) + 1)]
    for kind, slot in zip(rows.kinds, rows.slots, strict=True):
        kinds[slot].add(kind)
    if any(kind != kinds[0] for kind in kinds):
        raise ValueError(
            f"{names}: expected rows of the same kinds for each latent of a call, got the kinds "
            f"{rows.kinds} for the latents {rows.slots}"
        )
