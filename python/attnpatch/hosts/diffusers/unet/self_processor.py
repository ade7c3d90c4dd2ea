# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The attention processor that stands in for self-attention, with the patches' stages around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor

from attnpatch.engine import SelfAttention, Site
from attnpatch.engine.heads import join_heads, split_heads
from attnpatch.hosts.diffusers.operators import TAGS, WHY_EAGER, learns, registered
from attnpatch.hosts.diffusers.unet.processor import PatchedProcessor
from attnpatch.hosts.diffusers.unet.projections import (
    attend_to_text,
    finish,
    prepare,
    project_self,
)

if TYPE_CHECKING:
    from attnpatch.hosts.diffusers.unet.patched_layer import SelfLayer


class Staging(Protocol):
    """The patches' part of one layer's self-attention; q is (B, N, C), k and v (B, M, C)."""

    def reduce(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return what keys and values are projected from."""
        ...

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Return attention by all stages, (B, N, C)."""
        ...


class PatchedSelfProcessor(PatchedProcessor):
    """Stands in for the processor of one self-attention."""

    __slots__ = ()
    attnpatch_layer: SelfLayer  # type: ignore[assignment]

    def attnpatch_attend(
        self,
        in_graph: bool,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Any = None,
        attention_mask: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """Attend as the layer's own processor does, by the patches' stages."""
        staging: Staging | None = None
        if encoder_hidden_states is None:
            layer = self.attnpatch_layer
            if in_graph:
                if layer.patched_processor is not None:  # else it was detached
                    reduces = layer.reduces and not self.attnpatch_perturbed
                    staging = GraphStaging(layer.handle, reduces)
            else:
                staging = layer.begin(self, hidden_states)
        if staging is None:
            return self.attnpatch_original(
                attn, hidden_states, encoder_hidden_states, attention_mask, *args, **kwargs
            )
        queries = prepare(attn, hidden_states, args[0] if args else kwargs.get("temb"))
        states = queries.states
        # A mask is on all tokens: there none may be dropped.
        k_input, v_input = (
            (states, states) if attention_mask is not None else staging.reduce(states)
        )
        projected = project_self(attn, states, k_input, v_input, self.attnpatch_fused)
        q, k, v = (join_heads(x) for x in projected)
        return finish(attn, staging.attend(q, k, v, attention_mask), queries)


class EagerStaging:
    """The stages at one site, where they have something to do."""

    __slots__ = ("_acting", "_layer", "_site")

    def __init__(self, acting: SelfAttention, site: Site, layer: SelfLayer) -> None:
        self._acting = acting
        self._site = site
        self._layer = layer

    def reduce(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Staging`."""
        return self._acting.reduce(self._site, states, states)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """See :class:`Staging`."""
        patched_processor = self._layer.patched_processor
        plain = (
            mask is None
            and patched_processor.attnpatch_plain
            and patched_processor._attention_backend is None
        )
        heads = self._layer.module.heads

        def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return _attention(self._layer, q, k, v, mask)

        return self._acting.attend(self._site, q, k, v, heads, attention, plain=plain)


def _attention(layer: SelfLayer, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attend from q (B, N, C) as the layer's own processor does."""
    patched_processor, attn = layer.patched_processor, layer.module
    if patched_processor.attnpatch_perturbed:
        # Our own degraded passes have other rows than the pipeline's: none of those is perturbed.
        kept = 0 if layer.degraded else len(q) // patched_processor.attnpatch_perturbed
        attends = slice(len(q) - kept)
        heads = (split_heads(x[attends], attn.heads) for x in (q, k, v))
        out = attend_to_text(attn, *heads, mask, patched_processor._attention_backend)
        return torch.cat([out, v[len(q) - kept :]]) if kept else out
    if not patched_processor.attnpatch_plain:
        return patched_processor.attnpatch_original(Projected(attn, q, k, v), q, None, mask)
    q, k, v = (split_heads(x, attn.heads) for x in (q, k, v))
    return attend_to_text(attn, q, k, v, mask, patched_processor._attention_backend)


class Projected:
    """An `Attention` layer whose projections are done: what its processor leaves is attention.

    With it a processor of anyone's attends from any q to any k and v.
    """

    group_norm = spatial_norm = norm_cross = norm_q = norm_k = None
    residual_connection = False
    rescale_output_factor = 1.0
    to_out = (torch.nn.Identity(), torch.nn.Identity())

    def __init__(self, attn: Any, q: Tensor, k: Tensor, v: Tensor) -> None:
        self._attn = attn
        # Our queries have the scale of old models in them, which the processor will apply.
        factor = attn.scale * (q.shape[-1] // attn.heads) ** 0.5
        q = q if abs(factor - 1.0) < 1e-6 else q / factor
        self.to_q = lambda *_, **__: q
        self.to_k = lambda *_, **__: k
        self.to_v = lambda *_, **__: v
        self.to_qkv = lambda *_, **__: self._at_once(q, k, v)

    def _at_once(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if k.shape[1] != q.shape[1]:
            raise ValueError(
                f"processor: expected one that projects q, k and v apart where tokens are reduced "
                f"({k.shape[1]} keys for {q.shape[1]} queries), got a fused one; unfuse it"
            )
        return torch.cat([q, k, v], dim=-1)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._attn, name)


class GraphStaging:
    """The same as operators in a graph that is being compiled; see `GraphBranching`."""

    __slots__ = ("_handle", "_reduces")

    def __init__(self, handle: Tensor, reduces: bool) -> None:
        self._handle = handle
        self._reduces = reduces

    def reduce(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Staging`."""
        if not self._reduces:
            return states, states
        if learns(states):
            return _reduce_eagerly(states, self._handle)
        return torch.ops.attnpatch_diffusers.reduce(states, self._handle)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """See :class:`Staging`."""
        if learns(q, k, v, mask):
            return _self_attend_eagerly(q, k, v, mask, self._handle)
        return torch.ops.attnpatch_diffusers.self_attend(q, k, v, mask, self._handle)


def _reduce_now(states: Tensor, handle: Tensor) -> tuple[Tensor, Tensor]:
    staging = _layer_of(handle).staging(states.shape[1])
    k, v = (states, states) if staging is None else staging.reduce(states)
    return _fresh(k, states), _fresh(v, states, k)


_reduce = torch.library.custom_op(
    "attnpatch_diffusers::reduce", _reduce_now, mutates_args=(), tags=TAGS
)
_reduce_eagerly = torch.compiler.disable(_reduce_now, reason=WHY_EAGER)


@_reduce.register_fake
def _(states: Tensor, handle: Tensor) -> tuple[Tensor, Tensor]:
    batch, _, channels = states.shape
    tokens = torch.library.get_ctx().new_dynamic_size()
    return tuple(states.new_empty((batch, tokens, channels)) for _ in range(2))  # type: ignore


def _self_attend_now(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, handle: Tensor
) -> Tensor:
    found = _layer_of(handle)
    staging = found.staging(q.shape[1])
    out = _attention(found, q, k, v, mask) if staging is None else staging.attend(q, k, v, mask)
    return _fresh(out, q, k, v)


_self_attend = torch.library.custom_op(
    "attnpatch_diffusers::self_attend", _self_attend_now, mutates_args=(), tags=TAGS
)
_self_attend_eagerly = torch.compiler.disable(_self_attend_now, reason=WHY_EAGER)


@_self_attend.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, mask: object, handle: Tensor) -> Tensor:
    return q.new_empty(q.shape)


def _layer_of(handle: Tensor) -> SelfLayer:
    layer = registered(handle)
    if layer is None:
        raise RuntimeError("attach: a compiled UNet outlived its patches; compile it anew")
    return cast("SelfLayer", layer)


def _fresh(tensor: Tensor, *given: Tensor) -> Tensor:
    """Return a tensor with memory of its own: an operator may not hand back what it was given."""
    storage = tensor.untyped_storage().data_ptr()
    if any(storage == other.untyped_storage().data_ptr() for other in given):
        return tensor.clone(memory_format=torch.contiguous_format)
    return tensor.contiguous()
