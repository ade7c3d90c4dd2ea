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

from attnpatch.hosts.diffusers.branching import EagerBranching, register
from attnpatch.hosts.diffusers.clock import Schedule, TimestepReader
from attnpatch.hosts.diffusers.guidance import chunks_of
from attnpatch.hosts.diffusers.layers import cross_attention, read_layer_table
from attnpatch.hosts.diffusers.processor import layer_of, make_stand_in
from attnpatch.patches import Call, Layer, PatchStack, Report, Run, Site

logger = logging.getLogger("attnpatch")

_ATTRIBUTE = "_attnpatch_patching"


class _Running(threading.local):
    """The call of the UNet that is running in this thread."""

    run: Run | None = None
    call: Call | None = None
    reached: bool = False  # whether it came to a patched layer


class PatchedLayer:
    """One cross-attention layer of a patched UNet."""

    def __init__(self, patching: Patching, layer: Layer, module: Any) -> None:
        self.patching = patching
        self.layer = layer
        self.module = module
        self.stand_in: Any = None

    @property
    def joint(self) -> bool:
        """Whether a patch shares the text's softmax."""
        return self.patching.joint

    def take_over(self) -> Any:
        """See that our stand-in is the module's processor; return one that had replaced it."""
        processor = self.module.processor
        if processor is self.stand_in:
            return None
        if layer_of(processor) is self:
            self.stand_in = processor  # one of ours that was put away and put back
            return None
        before, self.stand_in = self.stand_in, make_stand_in(processor, self)
        self.module.set_processor(self.stand_in)
        return None if before is None else processor

    def restore(self) -> Any:
        """Put the original back; return the module's processor where that is not ours."""
        processor, self.stand_in = self.module.processor, None
        if layer_of(processor) is not self:
            return processor
        self.module.set_processor(processor.attnpatch_original)
        return None

    def begin(self, stand_in: Any, hidden_states: Tensor) -> EagerBranching | None:
        """Return what the patches do for these states; None: nothing, or not by this stand-in."""
        if stand_in is not self.stand_in:
            return None
        shape, dtype, device = hidden_states.shape, hidden_states.dtype, hidden_states.device
        if torch.is_autocast_enabled(device.type):
            dtype = torch.get_autocast_dtype(device.type)
        return self.branching(shape[1] if len(shape) == 3 else shape[2] * shape[3], dtype, device)

    def branching(
        self, tokens: int, dtype: torch.dtype, device: torch.device
    ) -> EagerBranching | None:
        """Return what the patches do for so many query tokens in the call that is running."""
        running = self.patching.running
        if running.call is None or running.run is None:
            return None
        running.reached = True
        site = Site(self.layer, running.call)
        branches = running.run.branches(site, dtype, device)
        if branches is None:
            return None
        if branches.masks is not None and site.grid[0] * site.grid[1] != tokens:
            raise ValueError(
                f"mask: expected {site.grid[0]} × {site.grid[1]} tokens at {self.layer.name} for a "
                f"latent of {running.call.latent}, got {tokens}: something merges or resizes them"
            )
        return EagerBranching(running.run, site, branches, dtype)


class Patching:
    """All that is attached to one UNet."""

    def __init__(self, unet: Any) -> None:
        self.table = read_layer_table(unet)
        self.layers = tuple(
            PatchedLayer(self, layer, cross_attention(unet, layer.name)) for layer in self.table
        )
        self.number = register(self)
        self.running = _Running()
        self.stacks: dict[object, PatchStack] = {}  # by what attached them, in order
        self.chunks: tuple[int, ...] | None = None
        self.joint = False
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
            self._pipeline = weakref.ref(pipeline)
        if not self._hooks:
            self._hooks = (
                unet.register_forward_pre_hook(self.begin_call, with_kwargs=True),
                unet.register_forward_hook(self.end_call, always_call=True),
            )
            setattr(unet, _ATTRIBUTE, self)
        for layer in self.layers:
            layer.take_over()

    def remove(self, key: object, unet: Any) -> None:
        """Detach what `key` attached; with the last one the UNet is as it was before."""
        left = {k: stack for k, stack in self.stacks.items() if k is not key}
        if len(left) == len(self.stacks):
            return
        self._bind(left)
        if left:
            return
        foreign = {type(p).__name__ for p in (layer.restore() for layer in self.layers) if p}
        if foreign:
            logger.warning(
                "detach: %s replaced attention processors after attach and stays in place",
                ", ".join(sorted(foreign)),
            )
        for hook in self._hooks:
            hook.remove()
        self._hooks = ()
        delattr(unet, _ATTRIBUTE)

    def _bind(self, stacks: Mapping[object, PatchStack]) -> None:
        stack = PatchStack([patch for stack in stacks.values() for patch in stack])
        run = stack.bind(self.table)
        self.joint = any(getattr(patch, "joint", False) for patch in stack)
        self.stacks, self._run, self._checked = dict(stacks), run, False

    @torch.compiler.disable
    def begin_call(self, unet: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Learn about the call of the UNet that begins: its forward pre-hook."""
        sample = args[0] if args else kwargs["sample"]
        timestep = args[1] if len(args) > 1 else kwargs["timestep"]
        run, pipeline = self._run, self._pipeline and self._pipeline()
        if any(layer.module.processor is not layer.stand_in for layer in self.layers):
            self._take_over_again()
        batch = int(sample.shape[0])
        if sample.ndim == 5:  # a video: each frame (dimension 2) is a row of its own
            batch *= int(sample.shape[2])
        chunks = self._chunks_of(pipeline, batch)
        moment = self._schedule_of(pipeline)(self._read_timestep(timestep))
        running = self.running
        running.run, running.reached = run, False
        running.call = Call(
            latent=(sample.shape[-2], sample.shape[-1]),
            batch=batch,
            chunks=chunks,
            samples=self._samples(run, batch // len(chunks)),
            progress=moment.progress,
            sigma=moment.sigma,
            timestep=moment.timestep,
        )

    @torch.compiler.disable
    def end_call(self, unet: Any, args: tuple[Any, ...], output: Any) -> None:
        """Forget the call, and see once that it came by our layers: the forward hook."""
        running = self.running
        reached = running.reached
        # Checkpointing computes the layers a second time, after the call.
        if not (torch.is_grad_enabled() and getattr(unet, "is_gradient_checkpointing", False)):
            running.run = running.call = None
        if output is None or self._checked:  # None: it raised
            return
        if not reached:
            raise RuntimeError(
                f"attach: none of the {len(self.layers)} patched attention layers ran in this call "
                f"of {type(unet).__name__}; something replaced its attention modules after attach"
            )
        self._checked = True

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
        twin.layers = copy.deepcopy(self.layers, memo)
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
