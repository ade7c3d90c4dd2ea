# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A stack of patches at work in one model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attnpatch._core import Layer
from attnpatch.engine.heads import join_heads, split_heads
from attnpatch.engine.joint_layers import JointLayer, JointTable, Table
from attnpatch.engine.patch import BoundPatch, NegativeText, Patch, nbytes_of
from attnpatch.engine.plan import Plan
from attnpatch.engine.plans import Plans
from attnpatch.engine.report import Report, Skip
from attnpatch.engine.site import Call, Site
from attnpatch.engine.site_attention import SiteAttention
from attnpatch.engine.text_guide import MoreKeys
from attnpatch.engine.tokens import IMAGE, TEXT, Tokens

__all__ = ["BoundStack"]


class BoundStack:
    """A stack of patches bound to one model; made by ``PatchStack.bind``.

    It holds caches only, and may be used from several threads: what it computes follows from the
    stack, the table and the arguments alone. Copies are the bound stack itself.
    """

    def __init__(self, stack: Sequence[Patch], table: Table) -> None:
        self.stack = stack
        self.table = table
        if isinstance(table, JointTable):
            _check_joint(stack, table)
        self._bound: tuple[BoundPatch, ...] = tuple(
            patch.bind(table, index) for index, patch in enumerate(stack)
        )
        self._skipped = tuple(
            _skipped(patch, bound, table) for patch, bound in zip(stack, self._bound, strict=True)
        )
        self._plans = Plans(self._bound, self._skipped, table)

    def at(self, site: Site) -> SiteAttention | None:
        """Return what the patches do at a site: the one door for every host.

        None: nothing to do here now; the host's own attention is then all there is.
        """
        plan = self.plan(site.call, site.keys.names)
        return None if plan is None else plan.at(site)

    def plan(self, call: Call, keys: tuple[str, ...]) -> Plan | None:
        """Return what all calls like this one have in common, at layers with such keys.

        Parameters
        ----------
        call : Call
            The call.
        keys : tuple of str
            The names of the spans of a layer's keys.

        Returns
        -------
        Plan or None
            The same object in all such calls: what follows from it need not be worked out again.
            None: no patch acts there.
        """
        return self._plans.of(call, keys)

    def prepare(
        self, call: Call, dtype: torch.dtype, device: torch.device, text: int | None = None
    ) -> None:
        """Bring what the layers will read in this call to a device, before the model runs.

        So nothing that outlives a forward pass is allocated inside it, where hosts may record what
        is allocated as a graph. What requires a gradient is made at each layer.

        Parameters
        ----------
        call : Call
            The call that is about to run.
        dtype, device
            Of the queries to come.
        text : int or None
            How many tokens the text of a UNet has; None: not known, then what depends on that is
            made at the layers.
        """
        sequences = dict.fromkeys(keys.names for _, keys in call.attentions)
        for names in sequences or ((TEXT,), (IMAGE,)):
            plan = self.plan(call, names)
            if plan is not None:
                plan.prepare(call, dtype, device, text)

    def negative_text(self, call: Call) -> NegativeText | None:
        """Return the text that rows of a call with joint attention are to have beside their own.

        Raises
        ------
        ValueError
            Where several patches ask for one.
        """
        texts = [
            text
            for bound in self._bound
            if bound.time_key(call) is not None and (text := bound.negative_text(call)) is not None
        ]
        if len(texts) > 1:
            raise ValueError(
                f"negative: expected one negative text in joint attention, got {len(texts)}"
            )
        return texts[0] if texts else None

    def active(self, call: Call) -> bool:
        """Whether any patch acts anywhere in this call."""
        return any(bound.time_key(call) is not None for bound in self._bound)

    def attend(
        self,
        where: Site | str,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        heads: int | None = None,
        scale: float | None = None,
        more: MoreKeys | None = None,
        keys: str | Tokens = TEXT,
        cond_or_uncond: Sequence[int] | None = None,
        **call: Any,
    ) -> Tensor:
        """Attend as the patches have it, for tensors alone; without patches: torch's attention.

        Parameters
        ----------
        where : Site or str
            Which layer, in which call; or a layer's name, and what follows describes the call.
        q, k, v : Tensor
            (batch, tokens, channels) with ``heads`` given, or (batch, heads, tokens, head size);
            any strides.
        heads : int or None
            How many heads the channels hold; only for the first form.
        scale : float or None
            Of the logits; None: head size ** -0.5.
        more : pair of Tensor or None
            Keys and values of texts that patches bring, (1, heads, tokens, head size), projected as
            k and v are from ``at(site).context(dtype, device)``; None: no patch asks for them here.
        keys : str or Tokens
            With a name: "text" where keys are the text's, "image" where they are the image's own;
            in joint attention what all tokens of the sequence are.
        cond_or_uncond : sequence of int or None
            With a name: the roles of equal chunks of the batch, 0 cond, 1 uncond; None: all cond.
        **call
            With a name: other parameters of ``Call``, ``latent`` at least.

        Returns
        -------
        Tensor
            (batch, tokens, channels).

        Examples
        --------
        >>> bound.attend("down_blocks.1.attentions.0.transformer_blocks.0", q, k, v, heads=8,
        ...              latent=(64, 64), progress=0.3, cond_or_uncond=(1, 0))
        """
        site = where if isinstance(where, Site) else None
        if site is None:
            if cond_or_uncond is not None:
                call["chunks"] = tuple(cond_or_uncond)
            site = self._site(where, keys, len(q), call)
        q, k, v = _as_heads(q, heads), _as_heads(k, heads), _as_heads(v, heads)
        attention = self.at(site)
        if attention is None:
            return join_heads(F.scaled_dot_product_attention(q, k, v, scale=scale))
        return join_heads(attention.attend(q, k, v, scale=scale, more=more))

    def _site(self, name: Any, keys: str | Tokens, batch: int, call: dict[str, Any]) -> Site:
        layer = self._layer(name)
        if isinstance(layer, JointLayer):
            if not isinstance(keys, Tokens):
                raise ValueError(f"keys: expected the Tokens of the whole sequence, got {keys!r}")
            return Site(layer, Call(batch=batch, **{"latent": keys.grid, **call}), keys, keys)
        makers = {TEXT: Site.over_text, IMAGE: Site.over_image}
        make = makers.get(keys) if isinstance(keys, str) else None
        if make is None:
            raise ValueError(f"keys: expected {TEXT!r} or {IMAGE!r}, got {keys!r}")
        return make(layer, Call(batch=batch, **call))

    def _layer(self, name: object) -> Layer | JointLayer:
        layers: Sequence[Any] = tuple(self.table)
        for layer in layers:
            if layer.name == name:
                return layer
        raise ValueError(
            f"where: expected a site or the name of a layer, such as {self.table[0].name!r}, "
            f"got {name!r}"
        )

    @property
    def layers(self) -> tuple[Layer | JointLayer, ...]:
        """The layers at which any patch may act."""
        return self._layers(range(len(self._bound)))

    def layers_over(self, keys: str) -> tuple[Layer | JointLayer, ...]:
        """Return the layers at which a patch may act beside keys of this name, "text" say.

        Hosts can leave the others alone.
        """
        return self._layers([i for i, bound in enumerate(self._bound) if bound.keys == keys])

    @property
    def reduces(self) -> bool:
        """Whether a patch may reduce what keys and values are projected from."""
        return any(bound.reduces for bound in self._bound)

    @property
    def guides_text(self) -> bool:
        """Whether a patch may need keys and values of a text of its own."""
        return any(bound.guides_text for bound in self._bound)

    def check_context(self, channels: int) -> None:
        """Raise ValueError where a patch brings a text of other channels than the model's."""
        for bound in self._bound:
            if bound.context_channels not in (None, channels):
                raise ValueError(
                    f"negative: expected text embeddings of {channels} channels, as this UNet's "
                    f"text has, got {bound.context_channels}"
                )

    @property
    def time_dependent(self) -> bool:
        """Whether any patch asks for the time of a call; hosts need not find it out for others."""
        return any(bound.time_dependent for bound in self._bound)

    @property
    def tells_roles_apart(self) -> bool:
        """Whether any patch needs to know which rows are cond and which uncond."""
        return any(bound.tells_roles_apart for bound in self._bound)

    @property
    def asks_repeats(self) -> bool:
        """Whether any patch asks for ``Call.repeats``."""
        return any(bound.asks_repeats for bound in self._bound)

    @property
    def names_words(self) -> bool:
        """Whether any patch is for some tokens of the text, and needs ``Call.repeats``."""
        return any(bound.names_words for bound in self._bound)

    def _layers(self, indices: Sequence[int]) -> tuple[Layer | JointLayer, ...]:
        skips = [self._skipped[index] for index in indices]
        return tuple(layer for layer in self.table if any(s[layer.index] is None for s in skips))

    def report(self) -> Report:
        """Say which layers are patched, and which are not and why."""
        layers: Sequence[Any] = tuple(self.table)
        return Report(
            wanted=tuple(layers) if self._bound else (),
            matched=self.layers,
            skipped=tuple(
                Skip(layer, index, reason)
                for index, reasons in enumerate(self._skipped)
                for layer, reason in zip(layers, reasons, strict=True)
                if reason is not None
            ),
            nbytes=nbytes_of(self.stack),
            patches=tuple(type(patch).__name__ for patch in self.stack),
        )

    def check_spans(self, call: Call, keys: tuple[str, ...]) -> None:
        """Raise ValueError where a patch that is active asks for tokens that a call has not.

        Parameters
        ----------
        call : Call
            A call of a model with joint attention.
        keys : tuple of str
            The names of the spans of its keys.
        """
        for patch, bound in zip(self.stack, self._bound, strict=True):
            if bound.keys not in keys and bound.time_key(call) is not None:
                raise ValueError(
                    f"{type(patch).__name__}: expected {bound.keys} tokens in the call of the "
                    f"{self.table.family}, got {', '.join(keys)}"
                )

    def __copy__(self) -> BoundStack:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> BoundStack:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return BoundStack, (self.stack, self.table)

    def __repr__(self) -> str:
        return f"<BoundStack of {self.stack!r} in {self.table!r}>"


def _check_joint(stack: Sequence[Patch], table: JointTable) -> None:
    """Raise TypeError where a patch is made for layers over text or image alone."""
    for patch in stack:
        if not patch.joint:
            known = sorted(patch.__name__ for patch in Patch.types.values() if patch.joint)
            raise TypeError(
                f"patches: expected patches that act in the joint attention of a {table.family}, "
                f"which are {', '.join(known)}; got {type(patch).__name__}, which is made for UNets"
            )


def _skipped(patch: Patch, bound: BoundPatch, table: Table) -> Sequence[str | None]:
    """For each layer why a patch never acts there: it says so, or the model lacks what it acts on.

    Raises ValueError where there is nothing left, but for the model.
    """
    skipped = bound.skipped
    if bound.keys != IMAGE or all(table.heads):
        return skipped
    there = [heads > 0 for heads in table.heads]
    if None in skipped and not any(
        has and reason is None for has, reason in zip(there, skipped, strict=True)
    ):
        first = table[skipped.index(None)].name
        raise ValueError(
            f"model: expected self-attention where {type(patch).__name__} acts, such as {first}, "
            "but this UNet has none there"
        )
    return tuple(
        reason or (None if has else "this UNet has no self-attention there")
        for has, reason in zip(there, skipped, strict=True)
    )


def _as_heads(tensor: Tensor, heads: int | None) -> Tensor:
    if tensor.dim() == 4:
        return tensor
    if heads is None or tensor.dim() != 3:
        raise ValueError(
            "q, k, v: expected (batch, heads, tokens, head size), or (batch, tokens, channels) "
            f"with heads given; got shape {tuple(tensor.shape)} and heads={heads}"
        )
    return split_heads(tensor, heads)
