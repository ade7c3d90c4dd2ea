# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Text attention plus image branches: weights enter the few values, not the many results."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from attnpatch.ops.plain.attention import (
    attend,
    attention_with_lse,
    heads_in_rows,
    no_attention,
    scale_of,
    share_of,
)

_ROUNDED_SUMS = 2
"""So many branches are added in the dtype of the query; more of them in float32."""


class _Branch:
    """A branch that has keys, and which of its rows serve the batch.

    Attributes
    ----------
    factor
        float32 (batch, 1, 1 or queries, 1): weight times mask. 0 where one of them is, whatever the
        other, or the row is below 0; not a number where the row is not there.
    """

    def __init__(
        self, k: Tensor, v: Tensor, rows: Tensor, weight: Tensor, mask: Tensor | None
    ) -> None:
        count = k.shape[0]
        factor = weight.masked_fill(rows < 0, 0)[:, None, None, None]
        if mask is not None:
            mask = mask[:, None, :, None]
            off = torch.logical_and(factor, mask).logical_not_()  # a NaN is on
            factor = (factor * mask).masked_fill_(off, 0)
        self.factor = factor.masked_fill_((rows >= count)[:, None, None, None], math.nan)
        self._k, self._v = k, v
        self._rows = rows.clamp(0, count - 1)
        self._mask = mask
        self._off = self.factor == 0

    def term(self, q: Tensor, scale: float) -> Tensor:
        """Attend to the branch; times its factor where that is the same for all queries."""
        k, v = self._selected(self._k), self._selected(self._v)
        if self._mask is None:
            v.mul_(self.factor)
            return attend(q, self._cleared(k), self._cleared(v), scale)
        return self._cleared(attend(q, k, v, scale))

    def term_with_lse(self, q: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Attend to the branch; its log-sum-exps have the logarithm of the factor added."""
        k, v = self._selected(self._k), self._selected(self._v)
        if self._mask is None:
            k, v = self._cleared(k), self._cleared(v)
        out, lse = attention_with_lse(q, k, v, scale)
        factor = self.factor.squeeze(3)
        # Not a number where the factor is below 0, or infinite: 0 times it is not a number.
        lse = lse + factor.log().add_(factor, alpha=0)
        if self._mask is not None:
            out = self._cleared(out)
            lse = lse.masked_fill_(self._off.squeeze(3), -math.inf)
        return out, lse

    def add_to(self, out: Tensor, term: Tensor) -> Tensor:
        """Add what :meth:`term` gave."""
        return out.add_(term) if self._mask is None else out.addcmul_(term, self.factor)

    def alone(self, term: Tensor) -> Tensor:
        """Return what :meth:`term` gave as a result of its own."""
        return term if self._mask is None else term.mul_(self.factor)

    def _selected(self, tensor: Tensor) -> Tensor:
        return tensor.index_select(0, self._rows)

    def _cleared(self, tensor: Tensor) -> Tensor:
        """Put zeros where the factor is 0: what is not a number there must not arrive."""
        return tensor.masked_fill_(self._off, 0)


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
    """Compute :func:`attnpatch.ops.branch_attention`; where `joint`, ``has_lse(q)`` must hold."""
    if q.numel() == 0:
        return no_attention(q)
    scale = scale_of(q, scale)

    def has_keys(i: int) -> bool:
        return branch_k[i].shape[0] > 0 and branch_k[i].shape[2] > 0

    def branches(begin: int, end: int) -> list[_Branch]:
        return [
            _Branch(
                *(branch_k[i], branch_v[i], branch_rows[i], weights[i]),
                mask=None if masks is None else masks[i],
            )
            for i in range(begin, end)
            if has_keys(i)
        ]

    out = None
    if joint > 0:
        out = _one_softmax(q, k, v, branches(0, joint), scale)
    elif k.shape[2] > 0:
        out = attend(q, k, v, scale)
    separate = branches(joint, len(branch_k))
    for i, branch in enumerate(separate):
        term = branch.term(q, scale)
        out = branch.alone(term) if out is None else branch.add_to(out, term)
        if i == 0 and len(separate) > _ROUNDED_SUMS:
            out = out.float()
    out = no_attention(q) if out is None else heads_in_rows(out.to(q.dtype))
    for i in range(len(branch_k)):
        if not has_keys(i):  # a row that is not there is seen all the same
            missing = branch_rows[i] >= branch_k[i].shape[0]
            out = out.masked_fill_(missing[:, None, None, None], math.nan)
    return out


def _one_softmax(
    q: Tensor, k: Tensor, v: Tensor, branches: Sequence[_Branch], scale: float
) -> Tensor:
    """Attend to text and branches in one softmax, each apart and then merged."""
    out, lse = attention_with_lse(q, k, v, scale)
    for i, branch in enumerate(branches):
        term, term_lse = branch.term_with_lse(q, scale)
        out = out.lerp_(term, share_of(term_lse, lse, out.dtype))
        if i + 1 < len(branches):
            lse = torch.logaddexp(lse, term_lse)
    return out
