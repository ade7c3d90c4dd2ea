# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Attention to text and to branches that a ``BranchSet`` keeps, by the quickest way to call it."""

from __future__ import annotations

import torch
from torch import Tensor

from attnpatch.ops.library import cpu_kernels_serve, has_tangents

__all__ = ["attend", "takes"]

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_attend = torch.ops.attnpatch.attend.default


def takes(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether ``attend`` serves: a kernel of ours does, and nobody asks for derivatives."""
    if not (q.is_cpu and q.dtype in _DTYPES and cpu_kernels_serve()):
        return False
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        return False
    if has_tangents((q, k, v)):
        return False
    return not (torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling())


def attend(
    q: Tensor, k: Tensor, v: Tensor, branches: int, heads: int, scale: float | None = None
) -> Tensor:
    """Attend as :func:`attnpatch.ops.branch_attention` does.

    Parameters
    ----------
    q, k, v : Tensor
        (batch, tokens, channels) that ``takes`` says yes to, any strides. k and v may have fewer
        heads, and so channels: a divisor of q's.
    branches : int
        ``BranchSet.handle``.
    heads : int
        How many heads the channels of q hold.
    scale : float, optional
        Of the logits; head size ** -0.5 by default.

    Returns
    -------
    Tensor
        (batch, tokens, channels), contiguous.

    Raises
    ------
    RuntimeError
        If shapes, dtypes or devices do not fit; the message names the argument.
    """
    return _attend(q, k, v, branches, heads, scale)


@torch.library.register_fake("attnpatch::attend")
def _(q: Tensor, k: Tensor, v: Tensor, branches: int, heads: int, scale: object = None) -> Tensor:
    return q.new_empty(q.shape)
