# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Patches in the replace slots of ComfyUI's model patcher, which Fooocus and others have as well.

A slot holds one callable ``(q, k, v, extra_options) -> out`` for one attention layer, key (block
name, number, transformer index). Here the slots of a model are filled from a stack of patches; what
already stood in a slot is called, and the patches' terms are added to it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

from torch import Tensor

from attnpatch.patches import Call, Layer, LayerTable, PatchStack, Run, Site, token_grid

ExtraOptions = Mapping[str, Any]
_NONE: Mapping[str, Any] = {}
Attention = Callable[[Tensor, Tensor, Tensor, ExtraOptions], Tensor]


class Clock(Protocol):
    """Tells how far sampling has come."""

    def __call__(self, options: ExtraOptions) -> float:
        """Return the progress, 0 at the start and 1 at the end, without a sync per layer."""
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

    def __init__(self, run: Run, clock: Clock, plain: Attention) -> None:
        self.run = run
        self.clock = clock
        self.plain = plain
        self.layers = frozenset(run.layers)
        self._latest: tuple[tuple[object, ...], Call] | None = None

    def call(self, batch: int, options: ExtraOptions) -> Call:
        """Return the UNet call that is running; one object for all of its layers."""
        shape = options["original_shape"]
        chunks = tuple(options.get("cond_or_uncond") or (0,))
        window = options.get("ad_params", _NONE).get("sub_idxs")  # which frames AnimateDiff shows
        samples = None if window is None else tuple(window)
        key = (chunks, batch, shape[-2], shape[-1], self.clock(options), samples)
        latest = self._latest  # one read: another thread may put a new one at any time
        if latest is None or latest[0] != key:
            call = Call(
                latent=(shape[-2], shape[-1]),
                batch=batch,
                chunks=chunks,
                progress=key[4],
                samples=samples,
            )
            latest = self._latest = (key, call)
        return latest[1]


class ReplaceSlot:
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

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: ExtraOptions) -> Tensor:
        """Attend from q (B, N, C) to k and v (B, T, C); returns (B, N, C) in q's dtype.

        To what a foreign patch gives, our terms are added. A prompt in the joint form takes its
        share of the text's softmax; its term is the difference that it makes to plain attention.
        """
        group = self.group
        call = group.call(q.shape[0], extra_options)
        site = Site(self.layer, call, _grid(self.layer, q.shape[1], extra_options))
        run, heads = group.run, extra_options["n_heads"]
        if self.foreign is None:
            if run.branches(site, q.dtype, q.device) is None:
                return group.plain(q, k, v, extra_options)
            return run.attend(site, q, k.to(q.dtype), v.to(q.dtype), heads=heads)
        base = self.foreign(q, k, v, extra_options)
        terms = run.terms(site, q, k.to(q.dtype), v.to(q.dtype), heads=heads)
        return base if terms is None else base + terms

    def to(self, *args: Any, **kwargs: Any) -> ReplaceSlot:
        """Follow the host's call when it moves models: keys and values follow the query anyway."""
        if not hasattr(self.foreign, "to"):
            return self
        moved = self.foreign.to(*args, **kwargs)
        return self if moved is self.foreign else ReplaceSlot(self.layer, self.group, moved)

    def __deepcopy__(self, memo: dict[int, Any]) -> ReplaceSlot:
        """Share all that is ours: it never changes."""
        if self.foreign is None:
            return self
        return ReplaceSlot(self.layer, self.group, copy.deepcopy(self.foreign, memo))

    def __repr__(self) -> str:
        foreign = "" if self.foreign is None else f", after {self.foreign!r}"
        return f"<ReplaceSlot {self.layer.name}: {self.group.run.stack!r}{foreign}>"


def fill_slots(
    model: Any,
    patches: Sequence[Any],
    *,
    table: LayerTable,
    clock: Clock,
    plain: Attention,
    kind: str = "attn2",
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
    clock, plain
        See :class:`SlotGroup`.
    kind
        ``"attn2"`` for cross-attention, ``"attn1"`` for self-attention.
    only_free
        Leave slots alone in which something stands.
    """
    clone = model.clone()
    slots = own_slots(clone, kind)
    groups: dict[SlotGroup | None, SlotGroup] = {}
    for layer in table:
        key = (layer.block, layer.number, layer.transformer)
        before = slots.get(key, slots.get(key[:2]))  # a host asks for the whole block last
        if only_free and before is not None:
            continue
        ours = before if isinstance(before, ReplaceSlot) else None
        old = ours.group if ours else None
        if old not in groups:
            stack = (old.run.stack if old else PatchStack()) + patches
            groups[old] = SlotGroup(stack.bind(table), clock, plain)
        group = groups[old]
        if layer in group.layers:
            slots[key] = ReplaceSlot(layer, group, ours.foreign if ours else before)
    return clone


def find_group(model: Any, kind: str = "attn2") -> SlotGroup | None:
    """Return what the slots of a patched model share; None if we have none in it."""
    options = model.model_options
    for name in ("transformer_options", "patches_replace", kind):
        options = options.get(name, {})
    return next((s.group for s in options.values() if isinstance(s, ReplaceSlot)), None)


def own_slots(model: Any, kind: str = "attn2") -> dict[tuple[Any, ...], Attention]:
    """Return the replace slots of `model` after making sure that they are its own.

    A clone may share nested dicts with its parent; the way down to the slots is copied.
    """
    options = model.model_options = dict(model.model_options)
    for name in ("transformer_options", "patches_replace", kind):
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
