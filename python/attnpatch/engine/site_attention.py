# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""How all edits of a stack combine at one site: the attention that a host calls there."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from attnpatch.engine.branch_plan import BranchPlan
from attnpatch.engine.branches import Branches
from attnpatch.engine.edits import Attention, AttentionWrapper, Inner, ReducingWrapper
from attnpatch.engine.heads import join_heads, split_heads
from attnpatch.engine.score_bias import Biases, BiasPlan, HostAttention
from attnpatch.engine.site import Site
from attnpatch.engine.text_guide import MoreKeys, TextGuides

__all__ = ["SiteAttention", "WrapperChain"]


class WrapperChain:
    """The wrappers at one layer, in calls of one layout and time.

    The first is the outermost. One that reduces is the innermost, and there is one at most: the
    last of the stack wins; where a wrapper needs all tokens, there is none.
    """

    __slots__ = ("needs_grid", "reducing", "wrappers")

    def __init__(self, wrappers: Iterable[AttentionWrapper]) -> None:
        every = list(wrappers)
        outer = [wrapper for wrapper in every if not wrapper.reduces]
        reducing = [cast("ReducingWrapper", wrapper) for wrapper in every if wrapper.reduces]
        if any(wrapper.needs_all_tokens for wrapper in outer):
            reducing = []
        self.wrappers: tuple[AttentionWrapper, ...] = (*outer, *reducing[-1:])
        self.reducing = reducing[-1] if reducing else None
        """The one that reduces what keys and values are projected from."""
        self.needs_grid = any(wrapper.needs_grid for wrapper in self.wrappers)
        """Whether one trusts that the tokens fill the site's grid."""

    def without_reduction(self) -> WrapperChain | None:
        """Return the others, for hosts that can not let it reduce; None: there are none."""
        if self.reducing is None:
            return self
        return WrapperChain(self.wrappers[:-1]) if len(self.wrappers) > 1 else None


class SiteAttention:
    """What the patches of a stack do at one site; made by ``BoundStack.at``.

    Queries, keys, values and outputs are (batch, heads, tokens, head size), of any strides.
    """

    __slots__ = ("_biases", "_branches", "_chain", "_guides", "_latest", "site")

    def __init__(
        self,
        site: Site,
        branches: BranchPlan | None,
        chain: WrapperChain | None,
        biases: BiasPlan | None = None,
        guides: TextGuides | None = None,
    ) -> None:
        self.site = site
        self._guides = guides
        self._branches = branches
        self._chain = chain
        self._biases = biases
        self._latest: tuple[torch.dtype, Branches] | None = None

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        host_attention: Attention | None = None,
        *,
        heads: int | None = None,
        is_softmax: bool = True,
        takes_scale: bool = False,
        scale: float | None = None,
        more: MoreKeys | None = None,
        text_attention: Attention | None = None,
    ) -> Tensor:
        """Attend as the patches have it.

        Parameters
        ----------
        q, k, v : Tensor
            (batch, heads, N, size) and twice (batch, heads, M, size); k and v are projected from
            what ``reduce`` gave. With ``heads``: (batch, N, channels) and (batch, M, channels).
        host_attention : callable or None
            The host's own, or another patch's, of such tensors: (q, k, v) -> out. None: torch's.
        heads : int or None
            How many heads the channels hold. None: heads are apart already.
        is_softmax : bool
            Whether that is softmax(q kᵀ) v and nothing else, so that a fused pass may replace it.
        takes_scale : bool
            Whether the host's own attention has a parameter ``scale``; else queries are multiplied
            where heads are made wider for it.
        scale : float or None
            Of the logits; None: size ** -0.5. A host's own attention has its own.
        more : pair of Tensor or None
            Keys and values that the layer projected from ``context``, heads apart; None: there is
            no context.
        text_attention : callable or None
            Attention to the text alone, where `host_attention` gives more than that.

        Returns
        -------
        Tensor
            As q.

        Raises
        ------
        ValueError
            Where the queries' rows or tokens do not fit the call or a mask, or the context's keys
            and values are missing.
        """
        tokens = 1 if heads else 2
        branches = self.branches(q.dtype, q.device)
        biases = self._biases_of(q.shape[0], q.shape[tokens], k.shape[tokens], q.device)
        if branches is not None:
            branches.check(self.site, q.shape[0], q.shape[tokens])
            alone = self._chain is None and biases is None and self._guides is None
            if heads and is_softmax and alone:
                return branches.attend_joined(q, k, v, heads, scale)
        host = host_attention
        if heads is not None:
            host = None if host is None else _apart(host, heads)
            text_attention = None if text_attention is None else _apart(text_attention, heads)
            q, k, v = (split_heads(x, heads) for x in (q, k, v))
        attention = host or functools.partial(F.scaled_dot_product_attention, scale=scale)
        if biases is not None:
            with_scale: Any = None
            if not is_softmax:
                with_scale = attention if takes_scale and heads is None else _rescaled(attention)
            attention = functools.partial(biases.attend, host_attention=with_scale, scale=scale)
            is_softmax = False
        out = self._attend(q, k, v, attention, is_softmax, scale, branches)
        if self._guides is not None:
            text = None  # what we have is attention to the text alone
            if branches is not None or self._chain is not None or text_attention is not None:
                text = (text_attention or attention)(q, k, v)
            out = self._guided(out, text, q, more, scale)
        return out if heads is None else join_heads(out)

    def _guided(
        self,
        out: Tensor,
        text: Tensor | None,
        q: Tensor,
        more: MoreKeys | None,
        scale: float | None,
    ) -> Tensor:
        """Add what guidance changes of attention to the text; None: that is all there is."""
        assert self._guides is not None
        plain = join_heads(out if text is None else text)
        guided = self._guides.guide(plain, q, more, scale)
        if text is not None:
            # What image prompts and others add keeps its weight: guidance is of the text.
            guided = join_heads(out) + (guided - plain)
        return split_heads(guided, q.shape[1])

    def _biases_of(self, rows: int, queries: int, keys: int, device: torch.device) -> Biases | None:
        """Return the biases for so many queries and keys; None: there are none."""
        if self._biases is None:
            return None
        biases = self._biases.at(self.site, keys, device)
        if biases is not None:
            biases.check(self.site, rows, queries)
            if self.shares_softmax:
                raise ValueError(
                    f"shared_softmax: expected an image prompt with a softmax of its own at "
                    f"{self.site.layer.name}, where a key gain changes the text's"
                )
        return biases

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attention: Attention,
        is_softmax: bool,
        scale: float | None,
        branches: Branches | None,
    ) -> Tensor:
        if branches is not None:
            attention = _with_branches(branches, attention, is_softmax, scale)
        if self._chain is None:
            return attention(q, k, v)
        inner = Inner(attention, is_softmax and branches is None)
        for wrapper in reversed(self._chain.wrappers):
            inner = Inner(_around(wrapper, self.site, inner), is_softmax=False)
        return inner(q, k, v)

    def terms(
        self,
        q: Tensor,
        k: Tensor | None = None,
        v: Tensor | None = None,
        *,
        scale: float | None = None,
        more: MoreKeys | None = None,
        text_attention: Attention | None = None,
    ) -> Tensor | None:
        """Give what the patches add where someone else computes the whole layer; None: nothing.

        Parameters and errors as of ``attend``; k and v are those of the text.

        Raises
        ------
        ValueError
            As well where a branch shares the text's softmax and k or v is not given: then what it
            adds is the difference that it makes to plain attention to them.
        """
        if self.has_biases:
            raise ValueError(
                f"KeyGain: expected attention to the text alone at {self.site.layer.name}, which "
                f"it may change, got attention that is computed elsewhere"
            )
        guided = None
        if self._guides is not None:
            if k is None or v is None:
                raise ValueError(
                    f"k, v: expected those of the text at {self.site.layer.name}, which is guided"
                )
            attention = functools.partial(F.scaled_dot_product_attention, scale=scale)
            text = (text_attention or attention)(q, k, v)
            guided = self._guided(torch.zeros_like(text), text, q, more, scale)
        branches = self.branches(q.dtype, q.device)
        if branches is None:
            return guided
        branches.check(self.site, q.shape[0], q.shape[2])
        if branches.shared_softmax and (k is None or v is None):
            raise ValueError(
                f"shared_softmax: expected plain attention to the text at {self.site.layer.name}, "
                "for an image prompt shares its softmax, got a mask on the text, another attention "
                "backend or no k and v; use plain attention there, or shared_softmax=False"
            )
        terms = branches.terms(q, k, v, scale)
        return terms if guided is None else terms + guided

    def context(self, dtype: torch.dtype, device: torch.device) -> Tensor | None:
        """Give what the layer is to project more keys and values from, beside the text.

        Returns
        -------
        Tensor or None
            (1, tokens, channels of the text) for `more` of ``attend``; None: no patch asks.
        """
        return None if self._guides is None else self._guides.context(dtype, device)

    @property
    def guides_text(self) -> bool:
        """Whether anything guides attention to the text by a text of its own."""
        return self._guides is not None

    @property
    def guides(self) -> TextGuides | None:
        """What guides attention to the text by texts of its own; None: nothing does."""
        return self._guides

    def reduce(self, k_input: Tensor, v_input: Tensor) -> tuple[Tensor, Tensor]:
        """Give what keys and values are projected from; see ``AttentionWrapper.reduce``."""
        if self._chain is None or self._chain.reducing is None:
            return k_input, v_input
        return self._chain.reducing.reduce(self.site, k_input, v_input)

    def branches(self, dtype: torch.dtype, device: torch.device) -> Branches | None:
        """Return the image branches for queries of this dtype and device; None: there are none."""
        if self._branches is None:
            return None
        latest = self._latest
        if latest is not None and latest[0] is dtype and device.type == "cpu":
            return latest[1]
        branches = self._branches.at(self.site, dtype, device)
        if device.type == "cpu" and not branches.requires_grad:  # else of a stream, or of a call
            self._latest = dtype, branches
        return branches

    def prepare(self, keys: int | None, dtype: torch.dtype, device: torch.device) -> None:
        """Make what is kept for such queries and so many keys, before the model runs.

        Not what requires a gradient; without a count of keys (None) not what changes the scores.
        """
        if self._branches is not None:
            self._branches.prepare(self.site, dtype, device)
        if self._biases is not None and keys is not None:
            self._biases.at(self.site, keys, device)
        if self._chain is not None:
            for wrapper in self._chain.wrappers:
                wrapper.prepare(self.site, dtype, device)

    @property
    def has_branches(self) -> bool:
        """Whether there are image branches."""
        return self._branches is not None

    @property
    def has_biases(self) -> bool:
        """Whether anything changes the scores of the attention itself."""
        return self._biases is not None

    @property
    def has_wrappers(self) -> bool:
        """Whether anything stands around the whole attention."""
        return self._chain is not None

    @property
    def shares_softmax(self) -> bool:
        """Whether an image branch shares the text's softmax."""
        return self._branches is not None and self._branches.shares_softmax(self.site.layer.index)

    @property
    def reduces(self) -> bool:
        """Whether ``reduce`` changes anything."""
        return self._chain is not None and self._chain.reducing is not None

    @property
    def only_reduces(self) -> bool:
        """Whether it does nothing else."""
        alone = self._branches is None and self._biases is None and self._guides is None
        return self.reduces and alone and len(self._chain.wrappers) == 1  # type: ignore[union-attr]

    @property
    def needs_grid(self) -> bool:
        """Whether it trusts that the tokens fill the site's grid."""
        masked = self._branches is not None and self._branches.masked(self.site.layer.index)
        return masked or (self._chain is not None and self._chain.needs_grid)

    def fits(self, tokens: int) -> bool:
        """Whether so many tokens fill the grid, so that they can be reduced; else it warns once."""
        if self._chain is None or self._chain.reducing is None:
            return True
        return self._chain.reducing.fits(self.site, tokens)

    def without_reduction(self) -> SiteAttention | None:
        """Return what is left for hosts that can not let it reduce; None: nothing."""
        chain = None if self._chain is None else self._chain.without_reduction()
        made = SiteAttention(self.site, self._branches, chain, self._biases, self._guides)
        rest = (self._branches, chain, self._biases, self._guides)
        return None if all(part is None for part in rest) else made


def _apart(attention: Attention, heads: int) -> Attention:
    """Return an attention of joined heads as one of heads apart."""

    def apart(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return split_heads(attention(join_heads(q), join_heads(k), join_heads(v)), heads)

    return apart


def _rescaled(attention: Attention) -> HostAttention:
    """Return an attention whose scale is size ** -0.5 as one that takes a scale."""

    def rescaled(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> Tensor:
        factor = 1.0 if scale is None else scale * q.shape[-1] ** 0.5
        return attention(q if abs(factor - 1.0) < 1e-9 else q * factor, k, v)

    return rescaled


def _with_branches(
    branches: Branches, host_attention: Attention, is_softmax: bool, scale: float | None
) -> Attention:
    if is_softmax:
        return lambda q, k, v: branches.attend(q, k, v, scale)
    return lambda q, k, v: host_attention(q, k, v) + branches.terms(q, k, v, scale)


def _around(wrapper: AttentionWrapper, site: Site, inner: Inner) -> Attention:
    return lambda q, k, v: wrapper.attend(site, q, k, v, inner)
