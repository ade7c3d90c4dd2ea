# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What happens before and after each call of a patched UNet: patches learn of it, and guide."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.amp import is_autocast_available

from attnpatch.engine import COND, BoundStack, Call
from attnpatch.hosts.diffusers.caches import check_caches, deepcache_of, own_cache
from attnpatch.hosts.diffusers.checkpointing import Checkpointing
from attnpatch.hosts.diffusers.guidance import GuidedCall, kept
from attnpatch.hosts.diffusers.pipelines import UNKNOWN_ROWS
from attnpatch.hosts.diffusers.prediction import Prediction
from attnpatch.hosts.diffusers.row_folding import Folding, fold_call
from attnpatch.hosts.diffusers.rows import rows_of
from attnpatch.hosts.diffusers.running import Running, running_pipeline
from attnpatch.hosts.diffusers.running_call import Patched, Restorable, describe_call, host_call_of
from attnpatch.hosts.diffusers.schedule import Schedule, TimestepReader
from attnpatch.hosts.host_call import CondOrUncond, HostCall, Rows, told_rows
from attnpatch.patches import DegradedPass, Guidance, degraded_passes

_STABLE_DIFFUSION = Schedule()


class PatchedModel(Patched, Protocol):
    """What is attached to a UNet, as far as its calls ask."""

    run: BoundStack | None
    """The patches at work."""
    cond_or_uncond: CondOrUncond | None
    """What users told of the roles of rows."""
    pipeline: Any
    """Whose schedule counts where none is running."""
    checked: bool
    """Whether a call came by a patched layer."""
    attention: Tensor | None
    """What the latest guided call recorded."""
    folding: Folding | None
    """Which latents of a call are equal; None: nobody tells."""

    def take_over_again(self) -> None:
        """Add the patches to processors that others put in the place of ours."""
        ...

    def take_over_perturbed(self) -> tuple[Restorable, ...]:
        """Take over, for one call, what a pipeline perturbs itself."""
        ...


class CallHooks:
    """The beginning and the end of a patched UNet's calls.

    Parameters
    ----------
    model
        What is attached to the UNet.
    """

    def __init__(self, model: PatchedModel) -> None:
        self._model = model
        self._read_timestep = TimestepReader()
        self._schedules: weakref.WeakKeyDictionary[Any, Schedule] = weakref.WeakKeyDictionary()

    def begin(self, unet: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Learn about the call of the UNet that begins; without rows that are equal to others."""
        if unet.__dict__.get("_is_replica"):
            raise TypeError(
                "model: expected a UNet that is given whole batches, but DataParallel scatters "
                "their rows over devices, so that it cannot be known which are cond and which "
                "uncond; use one device, or DistributedDataParallel"
            )
        run, running = self._model.run, self._model.running
        self._model.take_over_again()
        degraded, places = running.degraded or (None, ())
        pipeline = running_pipeline()
        host_call = host_call_of(args, kwargs, pipeline)
        rows = degraded or self._rows_of(pipeline, host_call)
        guides = any(isinstance(patch, Guidance) for patch in run.stack) if run else False
        running.run, running.reached, running.rows = run, False, rows
        running.features = {}
        schedule = self._schedule_of(pipeline)
        points = [schedule(t) for t in self._read_timestep(host_call.timestep)]
        folded = None
        if self._model.folding is not None and not degraded:
            folded = fold_call(self._model.folding, rows, points, args, kwargs)
        if folded is not None:
            args, kwargs, rows = folded.args, folded.kwargs, folded.rows
            host_call = host_call_of(args, kwargs, pipeline)
            running.rows = rows
        if not degraded:
            running.folded = folded
        running.call = describe_call(run, host_call, rows, points, places)
        if run is not None:
            sample, text = host_call.sample, host_call.encoder_hidden_states
            tokens = text.shape[1] if isinstance(text, Tensor) else None
            run.prepare(running.call, _queries_dtype(sample), sample.device, tokens)
        if guides and not degraded:
            check_caches(unet)
            running.perturbed = self._model.take_over_perturbed()
            running.given = kept(args), kept(dict(kwargs))
        running.checkpointing = Checkpointing(unet, self._model)
        return None if folded is None else (args, kwargs)

    def end(self, unet: Any, output: Any) -> Any:
        """Forget the call, see once that it came by our layers, and guide."""
        running = self._model.running
        folded = None if running.degraded else running.folded
        try:
            guided = self._end(unet, output)
            if folded is None or output is None:
                return guided
            return folded.unfold(output if guided is None else guided)
        finally:
            if not running.degraded:
                running.folded = None
                for layer in running.perturbed:
                    layer.restore()
                running.perturbed = ()

    def _end(self, unet: Any, output: Any) -> Any:
        model, running = self._model, self._model.running
        run, call, reached = running.run, running.call, running.reached
        rows, arguments, running.given = running.rows, running.given, None
        running.run = running.call = None
        if running.checkpointing is not None:
            running.checkpointing.restore()
            running.checkpointing = None
        if output is None:  # it raised
            return None
        if not (reached or model.checked) and model.layers:
            raise RuntimeError(
                f"attach: none of the {len(model.layers)} patched attention layers ran in this "
                f"call of {type(unet).__name__}; something replaced its attention modules after "
                "attach"
            )
        model.checked = True
        if running.degraded or run is None or call is None or rows is None or arguments is None:
            return None
        return self._guide(unet, run, call, rows, arguments, output)

    def _guide(
        self,
        unet: Any,
        run: BoundStack,
        call: Call,
        rows: Rows,
        arguments: tuple[tuple[Any, ...], dict[str, Any]],
        output: Any,
    ) -> Any:
        """Return the output with guidance in it; None: as it is."""
        firsts = [rows.slots.index(slot) for slot in range(max(rows.slots) + 1)]
        frames = call.batch // len(rows.roles)
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
        skipped = None if deepcache_of(unet) is None else self._model.attention
        guided = GuidedCall(call, rows, passes, prediction, cfg_scale, skipped)
        # What torch.compile made of the UNet, where the pipeline has that: no other wrapper, whose
        # own call has not ended yet.
        compiled = getattr(pipeline.pipeline, "unet", None) if pipeline else None
        target = compiled if getattr(compiled, "_orig_mod", None) is unet else unet

        def run_unet(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            self._model.running.degraded = guided.degraded
            self._model.running.caches = caches = self._model.running.caches or {}
            try:
                with own_cache(unet, caches, guided.degraded):
                    return target(*args, **kwargs)
            finally:
                self._model.running.degraded = None

        result = guided.output(*arguments, output, run_unet)
        if guided.attention is not None:
            self._model.attention = guided.attention
        return result

    def _rows_of(self, running: Running | None, call: HostCall) -> Rows:
        if self._model.cond_or_uncond is not None:
            return told_rows(self._model.cond_or_uncond, call)
        rows = rows_of(running, call)
        if rows is not None:
            return rows
        if self._model.run is not None and self._model.run.tells_roles_apart:
            runs = "no pipeline is running"
            if running is not None:
                name = type(running.pipeline).__name__
                reason = UNKNOWN_ROWS.get(name)
                runs = f"{name} does not tell" + (f" ({reason})" if reason else "")
            raise ValueError(
                f"cond_or_uncond: expected to be told which of the {call.batch} rows of this call "
                f"are cond and which uncond, for {runs}; give attach or patch_model (0,) where all "
                "are cond, (1, 0) for the batches [uncond, cond] of classifier-free guidance, a "
                "role for each row, or a callable that gives it for a call"
            )
        return Rows.of_chunks((COND,), call.batch)

    def _scheduler_of(self, running: Running | None) -> Any:
        """Return the scheduler of the pipeline that runs, else of the one that was attached to."""
        pipeline = running.pipeline if running else self._model.pipeline
        return getattr(pipeline, "scheduler", None)

    def _schedule_of(self, running: Running | None) -> Schedule:
        scheduler = self._scheduler_of(running)
        if scheduler is None:
            return _STABLE_DIFFUSION
        schedule = self._schedules.get(scheduler)
        if schedule is None:
            schedule = self._schedules[scheduler] = Schedule(scheduler)
        return schedule


def _queries_dtype(sample: Tensor) -> torch.dtype:
    """Return the dtype of attention's queries: that of autocast, else that of the sample."""
    device_type = sample.device.type
    # The meta device, for one, has no autocast, and must not be asked.
    if is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return sample.dtype


def _check_guided(passes: Sequence[DegradedPass], rows: Rows, running: Running | None) -> None:
    """Raise where guidance can not see what it needs of a step in one call."""
    names = ", ".join(type(each.guidance).__name__ for each in passes)
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
            "with guidance of its own; turn that off, or use the pipeline without it"
        )
    by_slot: list[set[int]] = [set() for _ in range(max(rows.slots) + 1)]
    for role, slot in zip(rows.roles, rows.slots, strict=True):
        by_slot[slot].add(role)
    if any(roles != by_slot[0] for roles in by_slot):
        raise ValueError(
            f"{names}: expected rows of the same roles for each latent of a call, got the roles "
            f"{rows.roles} for the latents {rows.slots}"
        )
