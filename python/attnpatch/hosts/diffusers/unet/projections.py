# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What surrounds the attention of a diffusers `Attention` layer: norms, projections, residual."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnpatch.engine.heads import split_heads


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


def project_self(
    attn: Any, states: Tensor, k_input: Tensor, v_input: Tensor, fused: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return q (B, H, N, D), k and v (B, H, M, D) of self-attention.

    Parameters
    ----------
    attn
        The `Attention` layer.
    states, k_input, v_input
        What they are projected from, (B, N, C) and twice (B, M, C).
    fused
        Whether one linear map projects all three, as after ``fuse_qkv_projections``.
    """
    if not fused:
        q, k, v = attn.to_q(states), attn.to_k(k_input), attn.to_v(v_input)
    elif k_input is states and v_input is states:
        q, k, v = attn.to_qkv(states).chunk(3, dim=-1)
    else:
        inputs = (states, k_input, v_input)
        q, k, v = (_part_of(attn.to_qkv, x, part, 3) for part, x in enumerate(inputs))
    return _query(attn, q), _key(attn, k), split_heads(v, attn.heads)


def _part_of(projection: nn.Module, states: Tensor, part: int, parts: int) -> Tensor:
    """Return one of the equal parts of what a linear map gives."""
    if not _is_plain_linear(projection):
        return projection(states).chunk(parts, dim=-1)[part]
    bias = projection.bias
    return F.linear(
        states,
        projection.weight.chunk(parts)[part],
        None if bias is None else bias.chunk(parts)[part],
    )


def project_query(attn: Any, states: Tensor) -> Tensor:
    """Return q (B, H, N, D), for which softmax's scale is 1 / sqrt(D)."""
    return _query(attn, attn.to_q(states))


def _query(attn: Any, query: Tensor) -> Tensor:
    query = split_heads(query, attn.heads)
    if attn.norm_q is not None:
        query = attn.norm_q(query)
    # Only old models have another scale: theirs goes into the query.
    factor = attn.scale * query.shape[-1] ** 0.5
    return query if abs(factor - 1.0) < 1e-6 else query * factor


def project_context(
    attn: Any, states: Tensor, context: Tensor | None, fused: bool = False
) -> tuple[Tensor, Tensor]:
    """Return k and v (B, H, T, D) of the context, or of the states where there is none.

    `fused`: whether one linear map projects both, as after ``fuse_qkv_projections``.
    """
    k, v = _project_context(attn, states, context, fused)
    return _key(attn, k), split_heads(v, attn.heads)


def _project_context(
    attn: Any, states: Tensor, context: Tensor | None, fused: bool
) -> tuple[Tensor, Tensor]:
    if context is None:
        context = states
    elif attn.norm_cross is not None:
        context = attn.norm_encoder_hidden_states(context)
    if fused:
        k, v = attn.to_kv(context).chunk(2, dim=-1)
        return k, v
    return attn.to_k(context), attn.to_v(context)


def project_cross(
    attn: Any, states: Tensor, context: Tensor | None, fused: bool
) -> tuple[Tensor, Tensor, Tensor, int | None]:
    """Return q, k, v and the number of heads that their channels hold, (B, N or T, C).

    Where norms of heads or a scale of the layer's own come between, heads are apart already, as
    `project_query` and `project_context` give them, and the number is None.
    """
    unnormed = attn.norm_q is None and attn.norm_k is None
    if not unnormed or abs(attn.scale * (attn.inner_dim // attn.heads) ** 0.5 - 1.0) > 1e-6:
        return project_query(attn, states), *project_context(attn, states, context, fused), None
    return attn.to_q(states), *_project_context(attn, states, context, fused), attn.heads


def _key(attn: Any, key: Tensor) -> Tensor:
    key = split_heads(key, attn.heads)
    return key if attn.norm_k is None else attn.norm_k(key)


def attend_to_text(
    attn: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, backend: Any
) -> Tensor:
    """Attend by the backend that the user chose; returns (B, H, N, D)."""
    batch, heads, tokens, _ = k.shape
    if mask is not None:
        mask = attn.prepare_attention_mask(mask, tokens, batch)
        mask = mask.view(batch, heads, -1, mask.shape[-1])
    if backend is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return dispatch_attention_fn(q, k, v, attn_mask=mask, backend=backend).transpose(1, 2)


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
    if _is_plain_linear(projection):
        return F.linear(terms, projection.weight)
    return projection(terms) - projection(terms.new_zeros(1, 1, terms.shape[-1]))


def _is_plain_linear(projection: nn.Module) -> TypeGuard[nn.Linear]:
    # Else it is a LoRA layer, or one whose weights come to the device only when it is called.
    return projection.__dict__.get("forward") is None and type(projection) is nn.Linear


def _shape_as_input(out: Tensor, queries: Queries) -> Tensor:
    return out.transpose(1, 2).reshape(queries.shape) if len(queries.shape) == 4 else out
