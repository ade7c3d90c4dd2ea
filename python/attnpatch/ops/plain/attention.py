# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Attention with its log-sum-exps, by torch's own fused kernels; and two softmaxes made one."""

from __future__ import annotations

import math
import operator

import torch
import torch.nn.functional as F
from torch import Tensor

from attnpatch.ops.attention import repeat_heads


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
        At least one key and value (batch, heads or a divisor of them, tokens, head size).
    scale : float
        Of the scores.

    Returns
    -------
    out : Tensor
        (batch, heads, queries, head size) in q's dtype; new memory.
    lse : Tensor
        ``logsumexp(scale * q k)`` over the keys, natural, float32 (batch, heads, queries). Minus
        infinity where all scores are, with an out of 0; not finite where one is not a number, with
        an out that is not one either.
    """
    if scale < 0:  # the kernels look for the largest product, not the largest score
        q, scale = -q, -scale
    k, v = repeat_heads(k, q.shape[1]), repeat_heads(v, q.shape[1])  # not all kernels take fewer
    q, k, v = (t if t.stride(3) == 1 else t.contiguous() for t in (q, k, v))
    kernel = _kernel_for(q)
    aten = torch.ops.aten
    if kernel == "cpu":
        attend = aten._scaled_dot_product_flash_attention_for_cpu.default
        out, lse = attend(q, k, v, scale=scale)
        return out, _with_lost_scores(out, lse, q, k, scale)
    if kernel == "flash":
        out, lse, *_ = aten._scaled_dot_product_flash_attention.default(q, k, v, scale=scale)
        # It has plus infinity where the sum of the exponentials is 0 or not a number.
        return out, lse.nan_to_num_(nan=math.nan, posinf=-math.inf, neginf=-math.inf)
    attend = aten._scaled_dot_product_efficient_attention.default
    out, lse, *_ = attend(q, k, v, None, True, scale=scale)
    return out, lse[:, :, : q.shape[2]]


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
    """Attend as torch does by default on this device.

    A NaN stays one. On devices other than the CPU torch itself gives 0 to a query all of whose
    scores are minus infinity.
    """
    if q.shape[1] == k.shape[1]:
        out = F.scaled_dot_product_attention(q, k, v, scale=scale)
    else:
        out = F.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=True)
    if q.device.type == "cpu" and k.shape[2] > 0:
        out = _with_nans(out, _without_score(q, k))
    return out


def alone(out: Tensor, lse: Tensor) -> Tensor:
    """Make what :func:`attention_with_lse` gave a result of its own, as :func:`attend` gives it."""
    return _with_nans(out, lse == -math.inf) if out.device.type == "cpu" else out


def _without_score(q: Tensor, k: Tensor) -> Tensor:
    """Tell which queries (batch, heads, queries) have no finite score.

    To them torch gives zeros on the CPU, as if a mask had taken all keys away.
    """
    # Sums are the fastest way to see what is not finite.
    asks, answers = (t.sum(dim=3, dtype=torch.float32).isfinite() for t in (q, k))
    has_key = repeat_heads(answers.any(dim=2, keepdim=True), q.shape[1])
    return (asks & has_key).logical_not_()


def _with_nans(out: Tensor, queries: Tensor) -> Tensor:
    """Make the results of some queries NaNs, in place; a sum is the fastest way."""
    return out.add_(torch.where(queries, math.nan, 0.0).to(out.dtype)[..., None])


def _with_lost_scores(out: Tensor, lse: Tensor, q: Tensor, k: Tensor, scale: float) -> Tensor:
    """Give what torch's kernel for the CPU loses, in place: see :func:`attention_with_lse`."""
    without = _without_score(q, k)
    # Where no score is finite their sum is minus infinity only if all of them are.
    total = ((q.float() * scale) @ k.float().sum(dim=2)[..., None]).squeeze(3)
    not_a_number = without & (total != -math.inf)
    _with_nans(out, not_a_number)
    return lse.masked_fill_(without, -math.inf).masked_fill_(not_a_number, math.nan)


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
