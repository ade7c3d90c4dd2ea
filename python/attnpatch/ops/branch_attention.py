# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Text attention plus any number of weighted, masked image branches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from attnpatch.ops.library import call, register


def branch_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    branch_k: Sequence[Tensor],
    branch_v: Sequence[Tensor],
    branch_rows: Sequence[Tensor],
    weights: Tensor,
    masks: Tensor | None = None,
    joint: int = 0,
    scale: float | None = None,
) -> Tensor:
    """Attend to the text and to image branches in one pass over the queries.

    Computes, with row ``r = branch_rows[i][b]`` of each branch's keys and values, ::

        softmax(scale * q k) v + sum_i weights[i, b] * masks[i, b, n] * softmax(scale * q k_i) v_i

    Parameters
    ----------
    q : Tensor
        Queries (batch, heads, queries, head size); float32, float16 or bfloat16, any strides.
    k, v : Tensor
        The text's keys and values (batch, heads, tokens, head size). No tokens: no text term.
    branch_k, branch_v : sequence of Tensor
        Each branch's keys and values (rows, heads, tokens, head size).
    branch_rows : sequence of Tensor
        int64 (batch,), one a branch: which row of its keys and values serves a row of the batch.
        Below 0: the branch is off for that row. One that is not there is an error on the CPU; on
        CUDA, where nobody waits to look, it makes that row of the result not a number.
    weights : Tensor
        float32 (branches, batch). A branch of weight 0 is skipped for that row.
    masks : Tensor, optional
        float32 (branches, 1 or batch, queries).
    joint : int
        The first `joint` branches share the text's softmax: their exponentials, times weight and
        mask (both at least 0), enter its numerator and its sum.
    scale : float, optional
        1 / sqrt(head size) by default.

    Returns
    -------
    Tensor
        (batch, heads, queries, head size) in q's dtype, laid out in memory as (batch, queries,
        heads, head size), so that joining the heads is a view.

    Raises
    ------
    RuntimeError
        If shapes, dtypes or devices do not fit; the message names the argument.

    Notes
    -----
    Decoupled cross-attention: Ye et al. 2023, arXiv 2308.06721, equation 5.
    """
    return call(
        torch.ops.attnpatch.branch_attention.default,
        branch_attention_reference,
        *(q, k, v, list(branch_k), list(branch_v), list(branch_rows), weights, masks, joint, scale),
    )


def branch_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    branch_k: Sequence[Tensor],
    branch_v: Sequence[Tensor],
    branch_rows: Sequence[Tensor],
    weights: Tensor,
    masks: Tensor | None = None,
    joint: int = 0,
    scale: float | None = None,
) -> Tensor:
    """Compute :func:`branch_attention` readably, on any device, differentiably."""
    batch, _, queries, _ = q.shape

    def rows_of(tensor: Tensor, i: int) -> Tensor:
        return tensor.index_select(0, branch_rows[i].clamp(min=0))

    def share(i: int) -> Tensor:
        """Weight times mask of branch i, (batch, 1, queries, 1)."""
        on = (branch_rows[i] >= 0).to(out.dtype)
        factor = (weights[i] * on)[:, None, None, None].expand(batch, 1, queries, 1)
        return factor if masks is None else factor * masks[i][:, None, :, None]

    out = torch.zeros(q.shape, dtype=torch.promote_types(q.dtype, torch.float32), device=q.device)
    if joint > 0:
        whole = torch.ones_like(share(0))
        shares = [whole.expand(-1, -1, -1, k.shape[2])]
        shares += [share(i).expand(-1, -1, -1, branch_k[i].shape[2]) for i in range(joint)]
        keys = torch.cat([k, *(rows_of(branch_k[i], i) for i in range(joint))], dim=2)
        values = torch.cat([v, *(rows_of(branch_v[i], i) for i in range(joint))], dim=2)
        out = out + _joint_attention(q, keys, values, torch.cat(shares, dim=3), scale)
    elif k.shape[2] > 0:
        out = out + F.scaled_dot_product_attention(q, k, v, scale=scale)
    for i in range(joint, len(branch_k)):
        if branch_k[i].shape[2] > 0:
            term = F.scaled_dot_product_attention(
                q, rows_of(branch_k[i], i), rows_of(branch_v[i], i), scale=scale
            )
            factor = share(i)
            # A branch that is off adds nothing, whatever stands in its tensors; a weight or a mask
            # of 0 that is to be learned is not off: its gradient is not 0.
            off = (branch_rows[i] < 0)[:, None, None, None] if factor.requires_grad else factor == 0
            out = out + torch.where(off, 0.0, factor * term)
    # Joining the heads of the result is a view.
    return out.to(q.dtype).transpose(1, 2).contiguous().transpose(1, 2)


def _joint_attention(
    q: Tensor, k: Tensor, v: Tensor, shares: Tensor, scale: float | None
) -> Tensor:
    """Attend with exponentials times shares (batch, 1, queries, tokens), all at least 0."""
    if not shares.requires_grad:
        # A factor on an exponential is its logarithm on the score.
        return F.scaled_dot_product_attention(q, k, v, shares.log().to(q.dtype), scale=scale)
    # The logarithm has no gradient at 0; the factor has.
    q, k, v = (tensor.to(shares.dtype) for tensor in (q, k, v))
    scores = q @ k.mT * (q.shape[3] ** -0.5 if scale is None else scale)
    top = scores.detach().masked_fill(shares <= 0, -torch.inf).amax(dim=3, keepdim=True)
    # Only where a share is 0 a score may be above the top: 0 times an infinity would be no number.
    weights = (scores - top).clamp(max=80.0).exp() * shares
    return weights @ v / weights.sum(dim=3, keepdim=True)


# Autocast casts the attention inputs, never the weights, rows and masks.
register(
    "branch_attention",
    branch_attention_reference,
    cast=(0, 1, 2, 3, 4),
    beyond=lambda limits, q, k, v, branch_k, *_: (
        q.shape[3] > limits.head_size or len(branch_k) > limits.branches
    ),
)


@torch.library.register_fake("attnpatch::branch_attention")
def _(q: Tensor, *_: object) -> Tensor:
    batch, heads, queries, size = q.shape
    return q.new_empty((batch, queries, heads, size)).transpose(1, 2)
