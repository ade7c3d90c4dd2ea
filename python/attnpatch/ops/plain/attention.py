# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Attention with its log-sum-exps, by torch's own fused kernels; and two softmaxes made one."""

from __future__ import annotations

import operator

import torch
import torch.nn.functional as F
from torch import Tensor

_FLASH = ("cpu", "flash")
"""Kernels that return a log-sum-exp for each query; the other pads their count."""


def has_lse(q: Tensor) -> bool:
    """Whether :func:`attention_with_lse` has an exact kernel for queries like these.

    On the CPU torch's own rounds exponentials of 16-bit types to some 15 bits.

    Parameters
    ----------
    q : Tensor
        Queries (batch, heads, queries, head size).
    """
    if q.device.type == "cpu" and q.dtype.itemsize < 4:
        return False
    return _kernel_for(q) != ""


def attention_with_lse(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attend, and give the logarithm of each softmax's sum, by one launch and without gradients.

    Parameters
    ----------
    q : Tensor
        Queries (batch, heads, queries, head size); :func:`has_lse` must hold for them.
    k, v : Tensor
        At least one key and value (batch, heads, tokens, head size).
    scale : float
        Of the scores.

    Returns
    -------
    out : Tensor
        (batch, heads, queries, head size) in q's dtype; new memory.
    lse : Tensor
        ``logsumexp(scale * q k)`` over the keys, natural, float32 (batch, heads, queries).
    """
    if scale < 0:  # the kernels look for the largest product, not the largest score
        q, scale = -q, -scale
    q, k, v = (t if t.stride(3) == 1 else t.contiguous() for t in (q, k, v))
    kernel = _kernel_for(q)
    aten = torch.ops.aten
    if kernel == "cpu":
        attend = aten._scaled_dot_product_flash_attention_for_cpu.default
        out, lse = attend(q, k, v, scale=scale)
    elif kernel == "flash":
        out, lse, *_ = aten._scaled_dot_product_flash_attention.default(q, k, v, scale=scale)
    else:
        attend = aten._scaled_dot_product_efficient_attention.default
        out, lse, *_ = attend(q, k, v, None, True, scale=scale)
    return out, lse if kernel in _FLASH else lse[:, :, : q.shape[2]]


_KERNELS: dict[tuple[torch.device, torch.dtype, int], str] = {}


def _kernel_for(q: Tensor) -> str:
    # A compiler may have made a symbol of the head size; the kernels depend on its value.
    return _kernel(q.device, q.dtype, operator.index(q.shape[3]))


def _kernel(device: torch.device, dtype: torch.dtype, head_size: int) -> str:
    """Name torch's kernel that also returns the log-sum-exps: ``""`` where there is none."""
    if device.type == "cpu":
        return "cpu"
    if device.type == "meta":
        return "flash"
    if device.type != "cuda" or head_size % 8 != 0:
        return ""
    case = (device, dtype, head_size)
    if case not in _KERNELS:
        _KERNELS[case] = _probe(torch.empty(1, 1, 16, head_size, device=device, dtype=dtype))
    return _KERNELS[case]


# As torch.compiler.assume_constant_result does, which imports all of the compiler for it.
_kernel._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _probe(q: Tensor) -> str:
    """Ask torch which kernels this GPU has for queries like these, or the user has left on."""
    from_torch = torch.backends.cuda
    params = from_torch.SDPAParams(q, q, q, None, 0.0, False, False)
    if from_torch.flash_sdp_enabled() and from_torch.can_use_flash_attention(params):
        return "flash"
    if from_torch.mem_efficient_sdp_enabled() and from_torch.can_use_efficient_attention(params):
        return "efficient"
    return ""


def share_of(lse: Tensor, other: Tensor, dtype: torch.dtype) -> Tensor:
    """How much of a softmax over two sets of keys goes to the first: for :func:`torch.lerp`.

    Exactly 0 where the first set's log-sum-exp is minus infinity.
    """
    return (lse - other).sigmoid_().to(dtype)[..., None]


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Attend as torch does by default on this device."""
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


def scale_of(q: Tensor, scale: float | None) -> float:
    """Return the scale given, or 1 / sqrt(head size)."""
    return max(q.shape[3], 1) ** -0.5 if scale is None else scale


def heads_in_rows(out: Tensor) -> Tensor:
    """Lay (B, H, N, D) out as (B, N, H, D), if it is not: joining the heads is a view then."""
    return out.transpose(1, 2).contiguous().transpose(1, 2)


def no_attention(q: Tensor) -> Tensor:
    """Zeros as :func:`heads_in_rows` lays them out: the attention to no key."""
    batch, heads, queries, size = q.shape
    return q.new_zeros((batch, queries, heads, size)).transpose(1, 2)
