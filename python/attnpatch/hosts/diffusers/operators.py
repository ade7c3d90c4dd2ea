# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What the patches compute at one layer, as operators in a graph that is being compiled.

They look up the layer and the running call when they run: neither weights, windows, masks nor the
images are part of the graph, so that changing them compiles nothing anew. Nor is the layer: its
handle is an input of the graph, so that one graph serves all blocks that are alike. So no gradient
gets through them: where one must, the graph breaks and the same runs eagerly.
"""

from __future__ import annotations

import itertools
import weakref
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from attnpatch.engine import MoreKeys, SiteAttention
from attnpatch.engine.heads import join_heads, split_heads
from attnpatch.hosts.diffusers.skipping import scores_are_skipped

__all__ = ["GraphSite", "PatchedLayer", "graph_site", "register"]


class PatchedLayer(Protocol):
    """An attention layer whose processor is ours."""

    handle: Tensor
    """By which graphs find it."""
    module: Any
    """The host's attention module."""
    patched_processor: Any
    """The processor that stands there; None: it was detached."""
    degraded: bool
    """Whether a degraded pass of ours is running."""

    def begin(self, processor: Any, hidden_states: Tensor) -> SiteAttention | None:
        """Return what the patches do for these states; None: nothing, or not by this processor."""
        ...

    @property
    def trained(self) -> bool:
        """Whether a gradient of a patch's own may be asked for."""
        ...

    @property
    def reduces(self) -> bool:
        """Whether a patch may give keys and values fewer tokens."""
        ...

    @property
    def guides_text(self) -> bool:
        """Whether a patch may need keys and values of a text of its own."""
        ...

    @property
    def shares_softmax(self) -> bool:
        """Whether a patch may share the text's softmax."""
        ...

    def acting(self, tokens: int) -> SiteAttention | None:
        """Return what the patches do for so many queries in the call that is running."""
        ...

    def attend(
        self,
        acting: SiteAttention | None,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        more: MoreKeys | None = None,
    ) -> Tensor:
        """Attend as the layer's own processor does, and as the patches have it."""
        ...

    def terms(
        self,
        acting: SiteAttention,
        q: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        mask: Tensor | None,
        more: MoreKeys | None,
    ) -> Tensor | None:
        """Give what the patches add to what another processor computes for the whole layer."""
        ...


def graph_site(layer: PatchedLayer) -> GraphSite | None:
    """Return what stands for the patches in a graph; None: they do nothing in any run of it.

    Whether a guider skips scores is part of the graph: there its mode is gone when that runs.
    """
    if layer.patched_processor is None or scores_are_skipped():  # None: it was detached
        return None
    return GraphSite(layer, layer.handle)


class GraphSite:
    """What ``SiteAttention`` does, by operators in a graph."""

    __slots__ = ("_handle", "_reduces", "_trained", "guides_text", "shares_softmax")

    def __init__(self, layer: PatchedLayer, handle: Tensor) -> None:
        self._handle = handle
        self._trained = layer.trained
        self._reduces = layer.reduces
        self.shares_softmax = layer.shares_softmax
        self.guides_text = layer.guides_text

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        *,
        heads: int | None = None,
        more: MoreKeys | None = None,
    ) -> Tensor:
        """Attend; see ``SiteAttention.attend``."""
        if heads is not None:
            parts = (split_heads(x, heads) for x in (q, k, v))
            return join_heads(self.attend(*parts, mask, more=more))
        more_keys = more or (None, None)
        eager = self._trained or _learns(q, k, v, mask, *more_keys)
        function = _attend_eagerly if eager else torch.ops.attnpatch_diffusers.attend
        return split_heads(function(q, k, v, mask, self._handle, *more_keys), q.shape[1])

    def terms(
        self,
        q: Tensor,
        k: Tensor | None = None,
        v: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        more: MoreKeys | None = None,
    ) -> Tensor:
        """Give what the patches add; see ``SiteAttention.terms``."""
        more_keys = more or (None, None)
        eager = self._trained or _learns(q, k, v, mask, *more_keys)
        function = _terms_eagerly if eager else torch.ops.attnpatch_diffusers.terms
        return split_heads(function(q, k, v, self._handle, mask, *more_keys), q.shape[1])

    def context(self, text: Tensor, tokens: int) -> Tensor | None:
        """Give what more keys and values are projected from; see ``SiteAttention.context``.

        Of the text's dtype and device, for so many queries; no tokens where no patch acts now.
        """
        if not self.guides_text:
            return None
        function = _context_eagerly if self._trained else torch.ops.attnpatch_diffusers.context
        return function(text, tokens, self._handle)

    def reduce(self, k_input: Tensor, v_input: Tensor) -> tuple[Tensor, Tensor]:
        """Give what keys and values are projected from, both of one tensor."""
        if not self._reduces:
            return k_input, v_input
        if _learns(k_input):
            return _reduce_eagerly(k_input, self._handle)
        return torch.ops.attnpatch_diffusers.reduce(k_input, self._handle)


def _learns(*tensors: Tensor | None) -> bool:
    """Whether a gradient may be asked for by way of any of these."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


# The operators find a layer by a number, for a graph holds no Python objects.
_layers: weakref.WeakValueDictionary[int, PatchedLayer] = weakref.WeakValueDictionary()
_numbers = itertools.count()


def register(layer: PatchedLayer) -> Tensor:
    """Return the handle by which graphs find `layer` while it lives: int64, of no dimensions.

    A number in a tensor, for torch.compile makes a graph for each plain number of a module.
    """
    number = next(_numbers)
    _layers[number] = layer
    return torch.tensor(number, device="cpu")


def _layer_of(handle: Tensor) -> PatchedLayer:
    layer = _layers.get(int(handle))
    if layer is None:
        raise RuntimeError("attach: a compiled UNet outlived its patches; compile it anew")
    return layer


def _attend_now(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    handle: Tensor,
    more_k: Tensor | None = None,
    more_v: Tensor | None = None,
) -> Tensor:
    layer = _layers.get(int(handle))
    if layer is None and mask is None:  # detached since
        out = F.scaled_dot_product_attention(q, k, v)
    else:
        layer = layer or _layer_of(handle)
        more = None if more_k is None or more_v is None else (more_k, more_v)
        out = layer.attend(layer.acting(q.shape[2]), q, k, v, mask, more)
    return _fresh(join_heads(out), q, k, v)


def _terms_now(
    q: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    handle: Tensor,
    mask: Tensor | None = None,
    more_k: Tensor | None = None,
    more_v: Tensor | None = None,
) -> Tensor:
    layer = _layers.get(int(handle))
    acting = None if layer is None else layer.acting(q.shape[2])
    more = None if more_k is None or more_v is None else (more_k, more_v)
    terms = None if acting is None else layer.terms(acting, q, k, v, mask, more)
    return _new_output(q).zero_() if terms is None else join_heads(terms).contiguous()


def _reduce_now(states: Tensor, handle: Tensor) -> tuple[Tensor, Tensor]:
    acting = _layer_of(handle).acting(states.shape[1])
    k, v = (states, states) if acting is None else acting.reduce(states, states)
    return _fresh(k, states), _fresh(v, states, k)


def _context_now(text: Tensor, tokens: int, handle: Tensor) -> Tensor:
    layer = _layers.get(int(handle))
    acting = None if layer is None else layer.acting(tokens)
    context = None if acting is None else acting.context(text.dtype, text.device)
    if context is None:
        return text.new_empty((1, 0, text.shape[2]))
    return context.clone()


def _fresh(tensor: Tensor, *arguments: Tensor) -> Tensor:
    """Return a tensor with memory of its own: an operator may not hand back what it was given."""
    storage = tensor.untyped_storage().data_ptr()
    if any(storage == other.untyped_storage().data_ptr() for other in arguments):
        return tensor.clone(memory_format=torch.contiguous_format)
    return tensor.contiguous()


# Read at run time, so a recorded CUDA graph may not hold them.
_TAGS = (torch.Tag.cudagraph_unsafe,) if hasattr(torch.Tag, "cudagraph_unsafe") else ()
_WHY_EAGER = (
    "attach: a gradient goes through the patches' part of attention, which runs eagerly; compile "
    "without fullgraph=True, or run in torch.no_grad()"
)

_attend = torch.library.custom_op(
    "attnpatch_diffusers::attend", _attend_now, mutates_args=(), tags=_TAGS
)
_terms = torch.library.custom_op(
    "attnpatch_diffusers::terms", _terms_now, mutates_args=(), tags=_TAGS
)
_reduce = torch.library.custom_op(
    "attnpatch_diffusers::reduce", _reduce_now, mutates_args=(), tags=_TAGS
)
_context = torch.library.custom_op(
    "attnpatch_diffusers::context", _context_now, mutates_args=(), tags=_TAGS
)
_attend_eagerly = torch.compiler.disable(_attend_now, reason=_WHY_EAGER)
_terms_eagerly = torch.compiler.disable(_terms_now, reason=_WHY_EAGER)
_reduce_eagerly = torch.compiler.disable(_reduce_now, reason=_WHY_EAGER)
_context_eagerly = torch.compiler.disable(_context_now, reason=_WHY_EAGER)


def _new_output(q: Tensor) -> Tensor:
    batch, heads, tokens, size = q.shape
    return q.new_empty((batch, tokens, heads * size))


@_attend.register_fake
def _(q: Tensor, *others: object) -> Tensor:
    return _new_output(q)


@_terms.register_fake
def _(q: Tensor, *others: object) -> Tensor:
    return _new_output(q)


@_context.register_fake
def _(text: Tensor, tokens: object, handle: Tensor) -> Tensor:
    return text.new_empty((1, torch.library.get_ctx().new_dynamic_size(), text.shape[2]))


@_reduce.register_fake
def _(states: Tensor, handle: Tensor) -> tuple[Tensor, Tensor]:
    batch, _, channels = states.shape
    tokens = torch.library.get_ctx().new_dynamic_size()
    return tuple(states.new_empty((batch, tokens, channels)) for _ in range(2))  # type: ignore
