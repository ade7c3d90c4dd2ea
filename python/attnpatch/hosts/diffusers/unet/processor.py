# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The attention processor that stands in for a layer's own and adds the patches' branches."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import Tensor

from attnpatch.engine import MoreKeys, SiteAttention
from attnpatch.engine.heads import join_heads
from attnpatch.hosts.diffusers.operators import GraphSite, PatchedLayer, graph_site
from attnpatch.hosts.diffusers.processor_slot import layer_of
from attnpatch.hosts.diffusers.skipping import register_skipping
from attnpatch.hosts.diffusers.unet.projections import (
    Queries,
    add_terms,
    attend_to_text,
    finish,
    prepare,
    project_context,
    project_cross,
    project_query,
)

# diffusers' processors that compute softmax(q k) v and nothing else: their work is done in one
# fused pass with the patches'.
_FUSED = ("FusedAttnProcessor2_0",)  # the same, by one projection of q, k and v, or of k and v
_SOFTMAX = ("AttnProcessor", "AttnProcessor2_0", *_FUSED)
# diffusers' processors of perturbed attention: of so many equal parts of the batch all but the last
# attend; in that each token keeps its own value.
_PERTURBED = {"PAGIdentitySelfAttnProcessor2_0": 2, "PAGCFGIdentitySelfAttnProcessor2_0": 3}


class PatchedProcessor:
    """Stands in for the processor of one cross-attention; made by :func:`make_patched_processor`.

    It is an instance of the original's class and shares the original's attributes: whatever a
    pipeline asks of the original (its class, scales, weights to move or to save) it finds here.
    The original itself is called whenever the patches have nothing to do.
    """

    __slots__ = ("attnpatch_layer", "attnpatch_original")
    attnpatch_layer: PatchedLayer
    attnpatch_original: Any
    attnpatch_is_softmax: bool
    attnpatch_fused: bool
    attnpatch_perturbed: int

    # diffusers' `set_attention_backend` looks for this attribute.
    _attention_backend: Any = None

    def attnpatch_call(self, *args: Any, **kwargs: Any) -> Tensor:
        """Attend in a graph that is being compiled, or eagerly.

        Eagerly beside a graph too, where that broke: no compiler need try what stands in for it.
        """
        if torch.compiler.is_compiling():
            return self.attnpatch_attend(True, *args, **kwargs)
        return _attend_eagerly(self, *args, **kwargs)

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
        """Attend as the layer's own processor does, plus the patches' terms."""
        layer = self.attnpatch_layer
        acting: SiteAttention | GraphSite | None
        acting = graph_site(layer) if in_graph else layer.begin(self, hidden_states)
        if acting is None:
            return self.attnpatch_original(
                attn, hidden_states, encoder_hidden_states, attention_mask, *args, **kwargs
            )
        queries = prepare(attn, hidden_states, args[0] if args else kwargs.get("temb"))
        # diffusers' own IP-Adapter hands over (text, [images]).
        context = encoder_hidden_states
        text = context[0] if isinstance(context, tuple) else context
        backend = self._attention_backend
        more = self._more_keys(acting, attn, queries, text) if acting.guides_text else None
        if self.attnpatch_is_softmax and attention_mask is None and backend is None:
            q, k, v, heads = project_cross(attn, queries.states, text, self.attnpatch_fused)
            out = acting.attend(q, k, v, heads=heads, more=more)
            return finish(attn, out if heads else join_heads(out), queries)
        q = project_query(attn, queries.states)
        if self.attnpatch_is_softmax:
            k, v = project_context(attn, queries.states, text, self.attnpatch_fused)
            if isinstance(acting, GraphSite):
                if acting.guides_text:
                    out = acting.attend(q, k, v, attention_mask, more=more)
                    return finish(attn, join_heads(out), queries)
            elif acting.has_biases or acting.guides_text:
                out = layer.attend(acting, q, k, v, attention_mask, more)
                return finish(attn, join_heads(out), queries)
            base = attend_to_text(attn, q, k, v, attention_mask, backend)
            return finish(attn, join_heads(base + acting.terms(q)), queries)
        base = self.attnpatch_original(
            attn, hidden_states, context, attention_mask, *args, **kwargs
        )
        k = v = None
        if acting.guides_text or (acting.shares_softmax and attention_mask is None):
            k, v = project_context(attn, queries.states, text)
        if isinstance(acting, GraphSite):
            terms = acting.terms(q, k, v, attention_mask, more=more)
        else:
            terms = layer.terms(acting, q, k, v, attention_mask, more)
        return add_terms(attn, base, join_heads(terms), queries)

    def _more_keys(
        self, acting: SiteAttention | GraphSite, attn: Any, queries: Queries, text: Tensor | None
    ) -> MoreKeys | None:
        """Project keys and values of the patches' own texts, apart from those of the text."""
        projected = (queries.states if text is None else text).detach()
        if isinstance(acting, GraphSite):
            context = acting.context(projected, queries.states.shape[1])
        else:
            context = acting.context(projected.dtype, projected.device)
        if context is None:
            return None
        return project_context(attn, queries.states, context, self.attnpatch_fused)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        layer = layer_of(self)
        if layer is None:
            return _itself, (_without_leftovers(self),)
        # The layer is state, for it holds the stand-in: a circle that pickle closes.
        return _bare_patched_processor, (self.attnpatch_original, type(self).__bases__[0]), layer

    def __setstate__(self, layer: PatchedLayer) -> None:
        object.__setattr__(self, "attnpatch_layer", layer)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if layer_of(self) is None:
            return copy.deepcopy(_without_leftovers(self), memo)
        twin = _bare_patched_processor(
            copy.deepcopy(self.attnpatch_original, memo), type(self).__bases__[0]
        )
        memo[id(self)] = twin
        object.__setattr__(twin, "attnpatch_layer", copy.deepcopy(self.attnpatch_layer, memo))
        return twin


def is_perturbed(processor: object) -> bool:
    """Whether a processor of diffusers' own perturbs some rows of a batch."""
    return type(processor).__name__ in _PERTURBED


@torch.compiler.disable
def _attend_eagerly(patched_processor: PatchedProcessor, *args: Any, **kwargs: Any) -> Tensor:
    return patched_processor.attnpatch_attend(False, *args, **kwargs)


def put_originals_back(processors: dict[str, Any]) -> None:
    """Replace stand-ins that a UNet put away, among `processors`, by what they stand in for."""
    for name, processor in processors.items():
        if isinstance(processor, PatchedProcessor):
            processors[name] = _without_leftovers(processor)


def make_patched_processor(original: Any, layer: PatchedLayer, processor_type: type[Any]) -> Any:
    """Return a processor that does what `original` does plus the patches of `layer`.

    `processor_type` is `PatchedProcessor`, or what derives from it for other layers.
    """
    patched_processor = _bare_patched_processor(_without_leftovers(original), processor_type)
    object.__setattr__(patched_processor, "attnpatch_layer", layer)
    return patched_processor


def _without_leftovers(processor: Any) -> Any:
    """Return the processor behind stand-ins that were detached but put back by someone else."""
    while isinstance(processor, PatchedProcessor):
        layer = layer_of(processor)
        if layer is None:  # diffusers makes new processors by the class of the old ones
            original = object.__new__(type(processor).__bases__[-1])
            original.__dict__.update(processor.__dict__)
            return original
        if layer.patched_processor is not None:
            break
        processor = processor.attnpatch_original
    return processor


def _itself(processor: Any) -> Any:
    return processor


def _bare_patched_processor(original: Any, processor_type: type[Any]) -> Any:
    patched_processor = object.__new__(_patched_class(type(original), processor_type))
    # Set past nn.Module, which would take the original for a child.
    object.__setattr__(patched_processor, "attnpatch_original", original)
    object.__setattr__(patched_processor, "__dict__", original.__dict__)
    return patched_processor


@functools.lru_cache(maxsize=128)
def _patched_class(original: type, processor_type: type[Any]) -> type:
    def call(self: PatchedProcessor, *args: Any, **kwargs: Any) -> Tensor:
        return self.attnpatch_call(*args, **kwargs)

    # `Attention.forward` hands over the keywords that the processor's signature names.
    call.__wrapped__ = original.__call__  # type: ignore[attr-defined]
    name = original.__name__ if original.__module__.startswith("diffusers.") else ""
    members = {
        "__slots__": (),
        "__call__": call,
        "attnpatch_is_softmax": name in _SOFTMAX,
        "attnpatch_fused": name in _FUSED,
        "attnpatch_perturbed": _PERTURBED.get(name, 0),
    }
    patched = type(f"Patched{original.__name__}", (processor_type, original), members)
    register_skipping(patched, original)
    return patched
