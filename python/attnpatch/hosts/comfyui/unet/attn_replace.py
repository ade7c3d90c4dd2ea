# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Patches in the replace slots of ComfyUI's model patcher, which Fooocus and others have as well.

A slot holds one callable ``(q, k, v, extra_options) -> out`` for one attention layer, key (block
name, number, transformer index), among those of cross-attention ("attn2") or of self-attention
("attn1"). What stood in a slot before ours is called, and the patches act around it.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from attnpatch.engine import IMAGE, TEXT, Call, Layer, MoreKeys, Plan, Site, SiteAttention
from attnpatch.hosts.comfyui.patched_model import ExtraOptions, PatchedModel, Running

Attention = Callable[[Tensor, Tensor, Tensor, ExtraOptions], Tensor]


def replace_key(layer: Layer) -> tuple[str, int, int]:
    """Return the key of a layer's slot."""
    return layer.block, layer.number, layer.transformer


class AttnReplace(ABC):
    """The callable in one replace slot. What it holds of ours is shared by a model and its clones.

    Parameters
    ----------
    layer
        Which attention layer this is.
    group
        What it shares with the other slots of its model.
    previous
        What the host would have called before, if that is not ours.
    hides
        Whether `previous` hid one of the whole block, which stays hidden.
    """

    __slots__ = ("group", "hides", "key", "layer", "previous")
    attention: ClassVar[str]
    """The host's word for the attention that it replaces."""

    def __init__(
        self,
        layer: Layer,
        group: PatchedModel,
        previous: Attention | None = None,
        hides: bool = False,
    ) -> None:
        self.layer = layer
        self.group = group
        self.previous = previous
        self.hides = hides
        self.key = (self.attention, layer.index)

    @abstractmethod
    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: ExtraOptions) -> Tensor:
        """Attend from q (B, N, C) to k and v (B, T, C); returns (B, N, C) in q's dtype."""

    def to(self, *args: Any, **kwargs: Any) -> AttnReplace:
        """Follow the host's call when it moves models: our tensors follow the query anyway."""
        if not hasattr(self.previous, "to"):
            return self
        moved = self.previous.to(*args, **kwargs)
        return self if moved is self.previous else self._with(moved)

    def models(self) -> list[Any]:
        """Return what the host must load with its model: what other patches say, none of ours."""
        return self.previous.models() if hasattr(self.previous, "models") else []

    def __copy__(self) -> AttnReplace:
        """Share all but the terms that other packs add."""
        return self._with(self.previous)

    def __deepcopy__(self, memo: dict[int, Any]) -> AttnReplace:
        """Share all that is ours: it never changes."""
        return self._with(copy.deepcopy(self.previous, memo))

    def _with(self, previous: Attention | None) -> AttnReplace:
        return type(self)(self.layer, self.group, previous, self.hides)

    def __repr__(self) -> str:
        after = "" if self.previous is None else f", after {self.previous!r}"
        return f"<{type(self).__name__} {self.layer.name}: {self.group.run.stack!r}{after}>"


class Attn2Replace(AttnReplace):
    """Cross-attention: what another pack's patch gives, and our terms added to it.

    A prompt with a shared softmax takes its share of the text's; its term is the difference
    that it makes to plain attention.
    """

    __slots__ = ("_ready", "added")
    attention = "attn2"

    def __init__(self, *args: Any, added: Sequence[Added] = ()) -> None:
        super().__init__(*args)
        self.added = list(added)
        # What calls like the latest one take: plan, shape of the queries, the latent and the parts
        # of it that rows show, and what the patches do.
        self._ready: tuple[Any, ...] | None = None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: ExtraOptions) -> Tensor:
        """Attend from q (B, N, C) to k and v (B, T, C); returns (B, N, C) in q's dtype."""
        running = self.group.running(extra_options)
        plan, others = running.plan, running.others
        base = self.previous if others is None else others.get(self.key) or self.previous
        acting = None if plan is None else self._acting(running, plan, q, extra_options)
        if acting is None:
            out = (base or self.group.host_attention)(q, k, v, extra_options)
        else:
            more = None
            if acting.guides is not None:  # then Attn2Patch has appended the patches' own texts
                k, v, more = acting.guides.split(k, v, extra_options["n_heads"])
            out = self._attend(acting, running, base, q, k, v, more, extra_options)
        if self.added:
            sigma = self.group.schedule(extra_options)[0].sigma
            for added in self.added:
                if added.acts(sigma):
                    out = out + added.callback(out, q, k, v, extra_options, **added.options)
        return out

    def _acting(
        self, running: Running, plan: Plan, q: Tensor, options: ExtraOptions
    ) -> SiteAttention | None:
        ready, shape, call = self._ready, q.shape, running.call
        if (
            ready is not None
            and ready[0] is plan
            and ready[1] == shape
            and ready[2] == call.latent
            and ready[3] == call.crops
        ):
            return ready[4]
        site = running.site(self.layer, q, options, TEXT)
        acting = None if site is None else plan.at(site)
        # A wrapper asks for the running call itself.
        kept = acting is None or not acting.has_wrappers
        self._ready = (plan, shape, call.latent, call.crops, acting) if kept else None
        return acting

    def _attend(
        self,
        acting: SiteAttention,
        running: Running,
        base: Attention | None,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        more: MoreKeys | None,
        options: ExtraOptions,
    ) -> Tensor:
        heads, dtype = options["n_heads"], q.dtype
        if base is None and running.fuses(q.device, options):
            if k.dtype is not dtype or v.dtype is not dtype:
                k, v = k.to(dtype), v.to(dtype)
            return acting.attend(q, k, v, heads=heads, more=more)
        if base is not None and acting.has_biases:
            raise ValueError(
                f"KeyGain: expected the host's own attention to the text at {self.layer.name}, got "
                f"{base!r} of another pack, which can not be told of it; take one of them off"
            )
        host_attention = partial(_call, self.group.host_attention, options)
        return acting.attend(
            q,
            k,
            v,
            host_attention if base is None else partial(_call, base, options),
            heads=heads,
            is_softmax=False,
            more=more,
            # What another pack adds to the text is not the text.
            text_attention=None if base is None else host_attention,
        )

    def add(self, callback: Callable[..., Any], **options: Any) -> None:
        """Take another pack's term in: such packs expect it of what they find in a slot.

        Parameters
        ----------
        callback
            Gives the term: (out, q, k, v, extra_options, **options) -> (B, N, C), or 0.
        **options
            ``sigma_start`` and ``sigma_end`` say when it acts.
        """
        self.added.append(Added(callback, options))

    def _with(self, previous: Attention | None) -> Attn2Replace:
        return type(self)(self.layer, self.group, previous, self.hides, added=self.added)


def _call(attention: Attention, options: ExtraOptions, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attention(q, k, v, options)


class Added(NamedTuple):
    """A term that another pack put into a slot of ours."""

    callback: Callable[..., Any]
    options: dict[str, Any]

    def acts(self, sigma: float | None) -> bool:
        """Whether it acts at a sigma; None: not known."""
        start, end = self.options.get("sigma_start"), self.options.get("sigma_end")
        if sigma is None:
            return True
        return (start is None or sigma <= start) and (end is None or sigma >= end)


class Attn1Replace(AttnReplace):
    """Self-attention: our stages around what another pack's patch, or else the host, computes.

    Another pack's patch gets all tokens: it may well count on them.
    """

    __slots__ = ()
    attention = "attn1"

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: ExtraOptions) -> Tensor:
        """Attend from q (B, N, C) to k and v (B, M, C); returns (B, N, C) in q's dtype."""
        group = self.group
        running = group.running(extra_options)
        others = running.others
        base = self.previous if others is None else others.get(self.key) or self.previous
        attention = base or group.host_attention
        site = running.site(self.layer, q, extra_options, IMAGE)
        acting = None if site is None else group.run.at(site)
        beside = base is not None or (others is not None and self.key in others)
        if beside and acting is not None:
            acting = acting.without_reduction()
        if acting is None or site is None:
            if site is None:
                self._tell_cut(running.call, q.shape[1])
            return attention(q, k, v, extra_options)
        if acting.reduces:
            exact = running.site(self.layer, q, extra_options, IMAGE, guess=False)
            acting = (exact and group.run.at(exact)) or acting

        def host_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return attention(q, k, v, extra_options)

        return acting.attend(
            q,
            k,
            v,
            host_attention,
            heads=extra_options["n_heads"],
            is_softmax=base is None and running.is_default(extra_options),
        )

    def _tell_cut(self, call: Call, tokens: int) -> None:
        """Let a patch that would reduce tokens say that another has cut the pictures up."""
        acting = self.group.run.at(Site.over_image(self.layer, call))
        if acting is not None:
            acting.fits(tokens)


class Attn2Patch:
    """The callable that appends the patches' own texts to what keys and values come from.

    It also sees which texts the host has repeated, where nobody tells. The host projects them with
    the text, whatever its weights are and wherever they lie, and the layer's slot takes the two
    apart. It stands once in a model's list of ``attn2_patch``.
    """

    __slots__ = ("_layers", "group")

    def __init__(self, group: PatchedModel, slots: Iterable[Attn2Replace]) -> None:
        self.group = group
        self._layers = {replace_key(slot.layer): slot.layer for slot in slots}

    def __call__(
        self, n: Tensor, context: Tensor, value: Tensor, extra_options: ExtraOptions
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what q, k and v are projected from; n (B, N, C) stays as it is."""
        layer = self._layers.get((*extra_options["block"], extra_options["block_index"]))
        if layer is None:
            return n, context, value
        running = self.group.running(extra_options)
        running.find_repeats(self.group, context)
        key = ("attn2", layer.index)
        if running.plan is None or (running.others or {}).get(key, running) is None:
            return n, context, value  # nothing acts now, or another pack has taken our slot
        site = running.site(layer, n, extra_options, TEXT)
        acting = None if site is None else running.plan.at(site)
        more = None if acting is None else acting.context(context.dtype, context.device)
        if more is None:
            return n, context, value
        if more.shape[2] != context.shape[2]:
            raise ValueError(
                f"negative: expected text embeddings of {context.shape[2]} channels, as the text "
                f"at {layer.name} has, got {more.shape[2]}"
            )
        more = more.expand(len(context), -1, -1)
        longer = torch.cat([context, more], dim=1)
        same = value is context
        return n, longer, longer if same else torch.cat([value, more.to(value.dtype)], dim=1)

    def __deepcopy__(self, memo: dict[int, Any]) -> Attn2Patch:
        """Share all: it never changes."""
        return self


class Attn1Patch:
    """The callable that gives self-attention fewer tokens to project keys and values from.

    It stands once in a model's list of ``attn1_patch``, for all layers.
    """

    __slots__ = ("_layers", "group")

    def __init__(self, group: PatchedModel, slots: Iterable[Attn1Replace]) -> None:
        self.group = group
        self._layers = {
            replace_key(slot.layer): slot.layer for slot in slots if slot.previous is None
        }

    def __call__(
        self, n: Tensor, context: Tensor, value: Tensor, extra_options: ExtraOptions
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what q, k and v are projected from; n (B, N, C) stays as it is."""
        layer = self._layers.get((*extra_options["block"], extra_options["block_index"]))
        if layer is None:
            return n, context, value
        running = self.group.running(extra_options)
        if running.others is not None and ("attn1", layer.index) in running.others:
            return n, context, value
        site = running.site(layer, n, extra_options, IMAGE, guess=False)
        acting = None if site is None else self.group.run.at(site)
        if acting is not None and acting.reduces and context.shape[:2] == n.shape[:2]:
            context, value = acting.reduce(context, value)
        return n, context, value

    def __deepcopy__(self, memo: dict[int, Any]) -> Attn1Patch:
        """Share all: it never changes."""
        return self
