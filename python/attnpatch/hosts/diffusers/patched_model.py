# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What is attached to one denoiser: stacks of patches, its layers' processors, and its hooks."""

from __future__ import annotations

import copy
import logging
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from attnpatch.engine import BoundStack, JointTable, LayerTable, PatchStack, Report
from attnpatch.hosts.diffusers.row_folding import Folding
from attnpatch.hosts.diffusers.running_call import RunningCall
from attnpatch.hosts.host_call import CondOrUncond, check_roles

logger = logging.getLogger("attnpatch")

_ATTRIBUTE = "_attnpatch_patched"
_OF_THIS_PROCESS = ("running", "_calls", "_lock", "_pipeline", "_told", "folding")


class PatchedLayer(Protocol):
    """An attention layer that may be given a processor of ours."""

    @property
    def replaced(self) -> bool:
        """Whether another processor stands where ours should."""
        ...

    def take_over(self) -> Any:
        """See that ours is the module's processor; return one that had replaced it."""
        ...

    def restore(self) -> Any:
        """Put the original back; return the module's processor where that is not ours."""
        ...


class Calls(Protocol):
    """The beginning and the end of a denoiser's calls."""

    def begin(self, model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Learn about the call that begins; return other arguments, or None: as they are."""
        ...

    def end(self, model: Any, output: Any) -> Any:
        """Forget the call; return another output, or None: as it is."""
        ...


class PatchedModel(ABC):
    """All that is attached to one denoiser of diffusers.

    Parameters
    ----------
    model
        The denoiser, in no wrapper.

    Raises
    ------
    TypeError, ValueError
        Where its layers are not as such models have them.
    """

    table: LayerTable | JointTable
    spans: tuple[str, ...] = ()
    """In joint attention what the tokens of a call may be."""
    context_channels: int | None = None
    """How many channels the text has that a UNet's layers are given; None: not known."""
    # The attributes that hold layers.
    layer_groups: ClassVar[tuple[str, ...]]

    def __init__(self, model: Any) -> None:
        self.read_layers(model)
        self.layers: tuple[Any, ...] = ()  # those with a processor of ours
        self._renew()
        self.stacks: dict[object, PatchStack] = {}  # by what attached them, in order
        self._told_roles: dict[object, CondOrUncond] = {}  # by what told them
        self.shared_softmax = False
        self.trained = False
        self.reduces = self.guides_text = False
        self.attention: Tensor | None = None  # what the latest guided call recorded
        self.run: BoundStack | None = None
        self.folding: Folding | None = None
        self._pipeline: weakref.ref[Any] | None = None
        self._hooks: tuple[Any, ...] = ()
        self.checked = False  # whether a call came by a patched layer
        self._told: set[str] = set()

    @abstractmethod
    def read_layers(self, model: Any) -> None:
        """Set ``table`` and the groups of layers."""

    @abstractmethod
    def make_calls(self) -> Calls:
        """Return what follows the model's calls."""

    @abstractmethod
    def wanted(self, run: BoundStack) -> Sequence[PatchedLayer]:
        """Return the layers at which the patches may act."""

    def check(self, run: BoundStack) -> None:
        """Raise TypeError where a layer can not be given a processor of ours; before any change."""
        del run

    def more_hooks(self, model: Any) -> tuple[Any, ...]:
        """Register other hooks that stay while anything is attached; return their handles."""
        return ()

    def clean(self, model: Any) -> None:
        """Take off what else is left in a model that nothing is attached to any more."""
        del model

    def _renew(self) -> None:
        """Make what no two copies share."""
        self.running = RunningCall()
        self._calls = self.make_calls()
        self._lock = threading.Lock()

    @staticmethod
    def of(model: Any) -> PatchedModel | None:
        """Return what is attached to a denoiser."""
        return model.__dict__.get(_ATTRIBUTE)

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
        model: Any,
        pipeline: Any,
        cond_or_uncond: CondOrUncond | None,
        *,
        replace: bool = False,
    ) -> None:
        """Attach the patches of `stack`, beside or instead of others; raises before any change."""
        told = cond_or_uncond
        if told is not None and not callable(told):
            told = check_roles(told)
        kept, known = ({}, None) if replace else (self.stacks, self.cond_or_uncond)
        if told is not None and known not in (None, told):
            raise ValueError(f"cond_or_uncond: what is attached already has {known}, got {told}")
        before = PatchStack() if replace else self.stack
        self._bind({**kept, key: stack})
        if told is not None or known is not None:  # what is told holds for those that come later
            self._told_roles[key] = told or known
        if pipeline is not None:
            self.follow(pipeline)
        if not self._hooks:
            self._hooks = (
                model.register_forward_pre_hook(self.begin_call, with_kwargs=True),
                model.register_forward_hook(self.end_call, always_call=True, with_kwargs=True),
                *self.more_hooks(model),
            )
            setattr(model, _ATTRIBUTE, self)
        self._settle()
        again = sorted({type(patch).__name__ for patch in stack if patch in before})
        if again:
            self._tell(
                f"attach: an equal {' and '.join(again)} is attached already, and now acts twice; "
                "detach(model) takes off all that is attached, attach(…, replace=True) what was "
                "attached before"
            )

    @property
    def cond_or_uncond(self) -> CondOrUncond | None:
        """What users told of the roles of rows, with patches that are attached still."""
        return next(iter(self._told_roles.values()), None)

    @property
    def pipeline(self) -> Any:
        """The pipeline whose schedule counts where none is running; None: none, or it is gone."""
        return self._pipeline and self._pipeline()

    def follow(self, pipeline: Any) -> None:
        """Take it for the pipeline whose schedule counts where none is running."""
        self._pipeline = weakref.ref(pipeline)

    def remove(self, key: object, model: Any) -> None:
        """Detach what `key` attached; with the last one the model is as it was before."""
        self._keep({k: stack for k, stack in self.stacks.items() if k is not key}, model)

    def clear(self, model: Any) -> None:
        """Detach all: the model is as it was before."""
        self._keep({}, model)

    def _keep(self, left: Mapping[object, PatchStack], model: Any) -> None:
        if len(left) == len(self.stacks):
            return
        self._bind(left)
        self._settle()
        if left:
            return
        for hook in self._hooks:
            hook.remove()
        self._hooks = ()
        delattr(model, _ATTRIBUTE)
        self.clean(model)

    def _bind(self, stacks: Mapping[object, PatchStack]) -> None:
        stack = PatchStack([patch for stack in stacks.values() for patch in stack])
        run = stack.bind(self.table)
        self.check(run)
        if self.context_channels is not None:
            run.check_context(self.context_channels)
        self.shared_softmax = any(getattr(patch, "shared_softmax", False) for patch in stack)
        self.trained = any(patch.requires_grad for patch in stack)
        self.reduces, self.guides_text = run.reduces, run.guides_text
        self.stacks, self.run, self.checked = dict(stacks), run, False
        self._told_roles = {k: roles for k, roles in self._told_roles.items() if k in stacks}

    def _settle(self) -> None:
        """Put stand-ins where patches may act, and the originals back everywhere else."""
        run = self.run
        assert run is not None
        wanted = self.wanted(run)
        gone = [layer for layer in self.layers if layer not in wanted]
        strangers = {type(p).__name__ for p in (layer.restore() for layer in gone) if p}
        if strangers:
            logger.warning(
                "detach: %s replaced attention processors after attach and stays in place",
                ", ".join(sorted(strangers)),
            )
        self.layers = tuple(wanted)
        for layer in self.layers:
            layer.take_over()

    @torch.compiler.disable
    def begin_call(self, model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Learn about a call of the model: its forward pre-hook."""
        return self._calls.begin(model, args, kwargs)

    @torch.compiler.disable
    def end_call(self, model: Any, args: object, kwargs: object, output: Any) -> Any:
        """Return a call's output, guided, or None: as it is. The model's forward hook."""
        return self._calls.end(model, output)

    def take_over_again(self) -> None:
        """Add the patches to processors that others put in the place of ours."""
        if not any(layer.replaced for layer in self.layers):
            return
        with self._lock:
            replaced = [p for p in (layer.take_over() for layer in self.layers) if p is not None]
        if replaced:
            names = ", ".join(sorted({type(p).__name__ for p in replaced}))
            self._tell(
                f"{len(replaced)} attention processors were replaced after attach, by {names}: "
                "the patches are added to those"
            )

    def _tell(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            logger.warning(message)

    def __getstate__(self) -> dict[str, Any]:
        # Neither what `_renew` makes nor what is of this process: a pipeline, its schedule.
        state = {k: v for k, v in self.__dict__.items() if k not in _OF_THIS_PROCESS}
        # What attached them does not come along.
        state["stacks"] = list(self.stacks.values())
        state["_told_roles"] = [self._told_roles.get(key) for key in self.stacks]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._renew()
        self._pipeline, self._told, self.folding = None, set(), None
        self._set_stacks(state["stacks"], state["_told_roles"])

    def __deepcopy__(self, memo: dict[int, Any]) -> PatchedModel:
        twin = memo[id(self)] = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._renew()
        twin._told = set(self._told)
        told = [self._told_roles.get(key) for key in self.stacks]
        twin._set_stacks(list(self.stacks.values()), told)
        for name in (*self.layer_groups, "layers"):
            setattr(twin, name, copy.deepcopy(getattr(self, name), memo))
        twin._hooks = copy.deepcopy(self._hooks, memo)
        return twin

    def _set_stacks(self, stacks: list[PatchStack], told: list[CondOrUncond | None]) -> None:
        """Take stacks, and the roles of rows told with each, that nothing here attached."""
        keys = [object() for _ in stacks]
        self.stacks = dict(zip(keys, stacks, strict=True))
        pairs = zip(keys, told, strict=True)
        self._told_roles = {key: roles for key, roles in pairs if roles is not None}
