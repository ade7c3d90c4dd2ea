# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The attention function that a host has chosen for its machine, or its user for a model."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# The host's own defaults compute softmax(q k) v as torch does; others stand for a user's choice.
DEFAULTS = ("attention_pytorch", "attention_sub_quad", "attention_split", "attention_basic")
_OVERRIDE = "optimized_attention_override"


class OptimizedAttention:
    """Plain attention as the host computes it.

    Parameters
    ----------
    module, name
        Where the host keeps its function. While that module is not loaded, torch's own attention
        stands in for it.
    """

    def __init__(self, module: str, name: str = "optimized_attention") -> None:
        self.module = module
        self.name = name

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, options: Mapping[str, Any]) -> Tensor:
        """Attend from q (B, N, C) to k and v (B, T, C); returns (B, N, C).

        Parameters
        ----------
        q, k, v
            Queries, keys and values.
        options
            The host's ``extra_options``: ``n_heads`` is read, and ``attn_precision``; all of them
            go on as ``transformer_options``, in which a user's choice of attention may stand.
        """
        heads = options["n_heads"]
        function = self._function()
        if function is None:
            q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
            return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)
        keywords: dict[str, Any] = {}
        precise, told = _takes(function)
        if precise:
            keywords["attn_precision"] = options.get("attn_precision")
        if told:
            keywords["transformer_options"] = options
        return function(q, k, v, heads, mask=None, **keywords)

    def is_default(self, options: Mapping[str, Any]) -> bool:
        """Whether it is softmax(q kᵀ) v as hosts compute it, not what a user chose instead."""
        function = self._function()
        if _OVERRIDE in options:
            return False
        return function is None or getattr(function, "__name__", "") in DEFAULTS

    def gives_way(self, device: torch.device, options: Mapping[str, Any]) -> bool:
        """Whether a fused pass of ours may take its place: it is a softmax and we have a kernel."""
        return has_kernel(device.type) and self.is_default(options)

    def _function(self) -> Callable[..., Tensor] | None:
        return getattr(sys.modules.get(self.module), self.name, None)


@lru_cache(maxsize=16)
def _takes(function: Callable[..., Tensor]) -> tuple[bool, bool]:
    """Whether a function takes ``attn_precision``, and whether ``transformer_options``."""
    parameters = inspect.signature(function).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return (
        anything or "attn_precision" in parameters,
        anything or "transformer_options" in parameters,
    )


@lru_cache(maxsize=16)
def has_kernel(device: str) -> bool:
    """Whether a type of device has a kernel of ours for attention with image branches."""
    key = {"cpu": "CPU", "cuda": "CUDA"}.get(device)
    name = "attnpatch::branch_attention"
    return key is not None and torch._C._dispatch_has_kernel_for_dispatch_key(name, key)
