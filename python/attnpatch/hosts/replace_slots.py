# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Patches in the replace slots of ComfyUI's model patcher, which Fooocus and others have as well.

A slot holds one callable ``(q, k, v, extra_options) -> out`` for one attention layer, key (block
name, number, transformer index), among those of cross-attention ("attn2") or of self-attention
("attn1"). Here the slots of a model are filled from a stack of patches; what already stood in a
slot is called, and the patches act around it.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from attnpatch.hosts.host_attention import HostAttention
from attnpatch.patches import Call, Layer, LayerTable, PatchStack, Run, Site, token_grid

ExtraOptions = Mapping[str, Any]
_NONE: Mapping[str, Any] = {}
Attention = Callable[[Tensor, Tensor, Tensor, ExtraOptions], Tensor]


class Moment(NamedTuple):
    """Where a call stands in sampling; None: the host does not tell."""

    progress: float | None
    """0 at the start, 1 at the end, in the sense of start and end percents."""
    sigma: float | None = None
    timestep: float | None = None


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
        self.layers = {"attn2": frozenset(run.cross_layers), "attn1": frozenset(run.self_layers)}
        self._latest: tuple[tuple[object, ...], Call] | None = None

    def call(self, batch: int, options: ExtraOptions) -> Call:
        """Return the UNet call that is running; one object for all of its layers."""
        shape = options["original_shape"]
        chunks = tuple(options.get("cond_or_uncond") or (0,))
        window = options.get("ad_params", _NONE).get("sub_idxs")  # which frames AnimateDiff shows
        samples = None if window is None else tuple(window)
        moment = self.clock(options)
        key = (chunks, batch, shape[-2], shape[-1], moment, samples)
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
            )
            latest = self._latest = (key, call)
        return latest[1]

    def site(self, layer: Layer, states: Tensor, options: ExtraOptions, attention: str) -> Site:
        """Return the site of a layer whose states are (B, N, C)."""
        call = self.call(states.shape[0], options)
        return Site(layer, call, _grid(layer, states.shape[1], options), attention)


class ReplaceSlot(ABC):
    """The callable in one replace slot: immutable, so that a model and its clones may share it.

    Parameters
    ----------
    layer
        Which attention layer this is.
    group
        What it shares with the other slots of its model.
    foreign
        What stood in the slot before, if that is not ours.
    """

    __slots__ = ("foreign", "group", "layer")

    def __init__(self, layer: Layer, group: SlotGroup, foreign: Attention | None = None) -> None:
        self.layer = layer
        self.group = group
        self.foreign = foreign

    @abstractmethod
    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: ExtraOptions) -> Tensor:
        """Attend from q (B, N, C) to k and v (B, T, C); returns (B, N, C) in q's dtype."""

    def to(self, *args: Any, **kwargs: Any) -> ReplaceSlot:
        """Follow the host's call when it moves models: our tensors follow the query anyway."""
        if not hasattr(self.foreign, "to"):
            return self
        moved = self.foreign.to(*args, **kwargs)
        return self if moved is self.foreign else type(self)(self.layer, self.group, moved)

    def __deepcopy__(self, memo: dict[int, Any]) -> ReplaceSlot:
        """Share all that is ours: it never changes."""
        if self.foreign is None:
            return self
        return type(self)(self.layer, self.group, copy.deepcopy(self.foreign, memo))

    def __repr__(self) -> str:
        foreign = "" if self.foreign is None else f", after {self.foreign!r}"
        return f"<{type(self).__name__} {self.layer.name}: {self.group.run.stack!r}{foreign}>"


class CrossSlot(ReplaceSlot):
    """Cross-attention: what a foreign patch gives, and our terms added to it.

    A prompt in the joint form takes its share of the text's softmax; its term is the difference
    that it makes to plain attention.
    """

    __slots__ = ()

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: ExtraOptions) -> Tensor:
        """Attend from q (B, N, C) to k and v (B, T, C); returns (B, N, C) in q's dtype."""
        group = self.group
        site = group.site(self.layer, q, extra_options, "cross")
        run, heads = group.run, extra_options["n_heads"]
        base = self.foreign or group.plain
        branches = run.branches(site, q.dtype, q.device)
        if branches is None:
            return base(q, k, v, extra_options)
        text = k.to(q.dtype), v.to(q.dtype)
        if self.foreign is None and group.plain.gives_way(q.device, extra_options):
            return run.attend(site, q, *text, heads=heads, branches=branches)
        out = base(q, k, v, extra_options)
        return out + run.terms(site, q, *text, heads=heads, branches=branches)


class SelfSlot(ReplaceSlot):
    """Self-attention: our stages around what a foreign patch, or else the host, computes."""

    __slots__ = ()

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: ExtraOptions) -> Tensor:
        """Attend from q (B, N, C) to k and v (B, M, C); returns (B, N, C) in q's dtype."""
        group = self.group
        site = group.site(self.layer, q, extra_options, "self")
        acting = group.run.self_attention(site)
        attention = group.plain if self.foreign is None else self.foreign
        if acting is None:
            return attention(q, k, v, extra_options)
        return acting.attend(
            site,
            q,
            k,
            v,
            extra_options["n_heads"],
            lambda q, k, v: attention(q, k, v, extra_options),
            plain=self.foreign is None,
        )


class InputPatch:
    """The callable that gives self-attention fewer tokens to project keys and values from.

    It stands once in a model's list of ``attn1_patch``, for all layers.
    """

    __slots__ = ("group", "layers")

    def __init__(self, group: SlotGroup) -> None:
        self.group = group
        self.layers = {
            (layer.block, layer.number, layer.transformer): layer for layer in group.layers["attn1"]
        }

    def __call__(
        self, n: Tensor, context: Tensor, value: Tensor, extra_options: ExtraOptions
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what q, k and v are projected from; n (B, N, C) stays as it is."""
        key = (*extra_options["block"], extra_options["block_index"])
        layer = self.layers.get(key)
        if layer is not None:
            site = self.group.site(layer, n, extra_options, "self")
            acting = self.group.run.self_attention(site)
            if acting is not None and acting.reduces:
                context, value = acting.reduce(site, context, value)
        return n, context, value

    def __deepcopy__(self, memo: dict[int, Any]) -> InputPatch:
        """Share all: it never changes."""
        return self


def fill_slots(
    model: Any,
    patches: Sequence[Any],
    *,
    table: LayerTable,
    clock: Callable[[PatchStack], Clock],
    plain: HostAttention,
    only_free: bool = False,
) -> Any:
    """Return a clone of `model` with `patches` in its replace slots; `model` stays as it is.

    Patches of ours that the model already has stay, and the new ones come after them.

    Parameters
    ----------
    model
        A ``ModelPatcher``: has ``clone()`` and ``model_options``.
    patches
        What to add.
    table
        The model's attention layers.
    clock
        Makes the clock for the whole stack; see :class:`SlotGroup`.
    plain
        The host's own attention.
    only_free
        Leave slots alone in which something stands.
    """
    clone = model.clone()
    old = find_group(clone)
    stack = (old.run.stack if old else PatchStack()) + patches
    group = SlotGroup(stack.bind(table), clock(stack), plain)
    for kind, make in (("attn2", CrossSlot), ("attn1", SelfSlot)):
        if not group.layers[kind]:
            continue
        slots = own_slots(clone, kind)
        for layer in table:
            key = (layer.block, layer.number, layer.transformer)
            before = slots.get(key, slots.get(key[:2]))  # a host asks for the whole block last
            if layer not in group.layers[kind] or (only_free and before is not None):
                continue
            foreign = before.foreign if isinstance(before, ReplaceSlot) else before
            slots[key] = make(layer, group, foreign)
    if group.layers["attn1"]:
        _set_input_patch(clone, InputPatch(group))
    return clone


def find_group(model: Any) -> SlotGroup | None:
    """Return what the slots of a patched model share; None if we have none in it."""
    replaced = model.model_options.get("transformer_options", {}).get("patches_replace", {})
    for kind in ("attn2", "attn1"):
        for slot in replaced.get(kind, {}).values():
            if isinstance(slot, ReplaceSlot):
                return slot.group
    return None


def own_slots(model: Any, kind: str = "attn2") -> dict[tuple[Any, ...], Attention]:
    """Return the replace slots of `model` after making sure that they are its own."""
    return _own_options(model, "transformer_options", "patches_replace", kind)


def _set_input_patch(model: Any, patch: InputPatch) -> None:
    patches = _own_options(model, "transformer_options", "patches")
    others = [p for p in patches.get("attn1_patch", ()) if not isinstance(p, InputPatch)]
    patches["attn1_patch"] = [*others, patch]


def _own_options(model: Any, *names: str) -> dict[Any, Any]:
    """Return nested options of `model`; the way down is copied, for a clone may share it."""
    options = model.model_options = dict(model.model_options)
    for name in names:
        options[name] = dict(options.get(name, {}))
        options = options[name]
    return options


def _grid(layer: Layer, tokens: int, options: ExtraOptions) -> tuple[int, int]:
    """Return the token grid (rows, columns) of a layer."""
    activations = options.get("activations_shape")  # newer hosts say it
    if activations is not None and activations[-2] * activations[-1] == tokens:
        return activations[-2], activations[-1]
    height, width = options["original_shape"][-2:]
    return _grid_of(height, width, layer.level, tokens)


@lru_cache(maxsize=256)
def _grid_of(height: int, width: int, level: int, tokens: int) -> tuple[int, int]:
    grid = token_grid(height, width, level)
    if grid[0] * grid[1] == tokens:
        return grid
    # Something resized the features on the way: the grid nearest to the latent's aspect ratio.
    candidates = [(h, tokens // h) for h in range(1, tokens + 1) if tokens % h == 0]
    return min(candidates, key=lambda g: abs(g[0] * width - g[1] * height))
