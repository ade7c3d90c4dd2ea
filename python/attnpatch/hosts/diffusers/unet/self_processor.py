# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The attention processor that stands in for self-attention, with the patches around it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attnpatch.engine import SiteAttention
from attnpatch.engine.heads import join_heads, split_heads
from attnpatch.hosts.diffusers.operators import GraphSite, PatchedLayer, graph_site
from attnpatch.hosts.diffusers.unet.processor import PatchedProcessor
from attnpatch.hosts.diffusers.unet.projections import (
    attend_to_text,
    finish,
    prepare,
    project_self,
)


class PatchedSelfProcessor(PatchedProcessor):
    """Stands in for the processor of one self-attention."""

    __slots__ = ()

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
        """Attend as the layer's own processor does, with the patches around it."""
        layer = self.attnpatch_layer
        acting: SiteAttention | GraphSite | None = None
        if encoder_hidden_states is None:
            acting = graph_site(layer) if in_graph else layer.begin(self, hidden_states)
        if acting is None:
            return self.attnpatch_original(
                attn, hidden_states, encoder_hidden_states, attention_mask, *args, **kwargs
            )
        queries = prepare(attn, hidden_states, args[0] if args else kwargs.get("temb"))
        states = queries.states
        # A mask is on all tokens: there none may be dropped.
        k_input, v_input = (
            (states, states) if attention_mask is not None else acting.reduce(states, states)
        )
        q, k, v = project_self(attn, states, k_input, v_input, self.attnpatch_fused)
        if isinstance(acting, GraphSite):
            out = acting.attend(q, k, v, attention_mask)
        else:
            out = layer.attend(acting, q, k, v, attention_mask)
        return finish(attn, join_heads(out), queries)


def host_attention(
    layer: PatchedLayer, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
) -> Tensor:
    """Attend from q (B, H, N, D) as the layer's own processor does; returns (B, H, N, D)."""
    processor, attn = layer.patched_processor, layer.module
    if processor.attnpatch_perturbed:
        # Our own degraded passes have other rows than the pipeline's: none of those is perturbed.
        kept = 0 if layer.degraded else len(q) // processor.attnpatch_perturbed
        attends = slice(len(q) - kept)
        rows = (x[attends] for x in (q, k, v))
        out = attend_to_text(attn, *rows, mask, processor._attention_backend)
        return torch.cat([out, v[len(q) - kept :]]) if kept else out
    if not processor.attnpatch_is_softmax:
        q, k, v = (join_heads(x) for x in (q, k, v))
        projected = Projected(attn, q, k, v)
        return split_heads(processor.attnpatch_original(projected, q, None, mask), attn.heads)
    return attend_to_text(attn, q, k, v, mask, processor._attention_backend)


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
