# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What surrounds the attention of a diffusers `Attention` layer: norms, projections, residual."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnpatch.patches.heads import join_heads, split_heads


class Queries(NamedTuple):
    """What a layer's queries are projected from, and what led to it."""

    states: Tensor  # (B, N, C), normalised
    residual: Tensor  # as the layer was called
    shape: torch.Size  # of the residual: (B, N, C) or (B, C, h, w)


def prepare(attn: Any, hidden_states: Tensor, temb: Tensor | None) -> Queries:
    """Normalise and flatten the input of a layer, as diffusers' processors do."""
    states = hidden_states
    if attn.spatial_norm is not None:
        states = attn.spatial_norm(states, temb)
    if states.ndim == 4:
        states = states.flatten(2).transpose(1, 2)
    if attn.group_norm is not None:
        states = attn.group_norm(states.transpose(1, 2)).transpose(1, 2)
    return Queries(states, hidden_states, hidden_states.shape)


def project_query(attn: Any, states: Tensor) -> Tensor:
    """Return q (B, H, N, D), for which softmax's scale is 1 / sqrt(D)."""
    query = split_heads(attn.to_q(states), attn.heads)
    if attn.norm_q is not None:
        query = attn.norm_q(query)
    # Only old models have another scale: theirs goes into the query.
    factor = attn.scale * query.shape[-1] ** 0.5
    return query if abs(factor - 1.0) < 1e-6 else query * factor


def project_context(attn: Any, states: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return k and v (B, H, T, D) of the context, or of the states where there is none."""
    if context is None:
        context = states
    elif attn.norm_cross is not None:
        context = attn.norm_encoder_hidden_states(context)
    return project_key(attn, context), project_value(attn, context)


def project_key(attn: Any, states: Tensor) -> Tensor:
    """Return k (B, H, T, D)."""
    key = split_heads(attn.to_k(states), attn.heads)
    return key if attn.norm_k is None else attn.norm_k(key)


def project_value(attn: Any, states: Tensor) -> Tensor:
    """Return v (B, H, T, D)."""
    return split_heads(attn.to_v(states), attn.heads)


def attend_to_text(
    attn: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, backend: Any
) -> Tensor:
    """Attend to the text alone, by the backend that the user chose; returns (B, N, C)."""
    batch, heads, tokens, _ = k.shape
    if mask is not None:
        mask = attn.prepare_attention_mask(mask, tokens, batch)
        mask = mask.view(batch, heads, -1, mask.shape[-1])
    if backend is None:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return join_heads(out)
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return dispatch_attention_fn(q, k, v, attn_mask=mask, backend=backend).flatten(2)


def finish(attn: Any, out: Tensor, queries: Queries) -> Tensor:
    """Project the attention's output (B, N, C), add the residual and rescale."""
    out = _shape_as_input(attn.to_out[1](attn.to_out[0](out)), queries)
    if attn.residual_connection:
        out = out + queries.residual
    return out if attn.rescale_output_factor == 1.0 else out / attn.rescale_output_factor


def add_terms(attn: Any, base: Tensor, terms: Tensor, queries: Queries) -> Tensor:
    """Add terms (B, N, C) to what another processor returned for the whole layer."""
    terms = attn.to_out[1](_project_without_bias(attn.to_out[0], terms))
    return base + _shape_as_input(terms, queries) / attn.rescale_output_factor


def _project_without_bias(projection: nn.Module, terms: Tensor) -> Tensor:
    if projection.__dict__.get("forward") is None and type(projection) is nn.Linear:
        return F.linear(terms, projection.weight)
    # A LoRA layer, or one whose weights come to the device only when it is called.
    return projection(terms) - projection(terms.new_zeros(1, 1, terms.shape[-1]))


def _shape_as_input(out: Tensor, queries: Queries) -> Tensor:
    return out.transpose(1, 2).reshape(queries.shape) if len(queries.shape) == 4 else out
