# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The image branches of one attention layer, as the operator takes them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from attnpatch._core import BranchSet
from attnpatch.engine.heads import join_heads, split_heads
from attnpatch.engine.site import Site
from attnpatch.ops.attend import attend, takes
from attnpatch.ops.branch_attention import branch_attention_flat

__all__ = ["Branches"]


class Branches:
    """The image branches at one site: what the operator ``branch_attention`` takes."""

    __slots__ = (
        "_kept",
        "_split",
        "k",
        "masks",
        "requires_grad",
        "rows",
        "shared_softmax",
        "v",
        "weights",
    )

    def __init__(
        self,
        k: list[Tensor],
        v: list[Tensor],
        rows: list[Tensor],
        weights: Tensor,
        masks: Tensor | None,
        shared_softmax: int,
        requires_grad: bool = False,
    ) -> None:
        self.k = k
        """For each branch its keys (rows, tokens, channels)."""
        self.v = v
        """For each branch its values (rows, tokens, channels)."""
        self.rows = rows
        """For each branch the row that serves each row of the batch, int64 (batch,)."""
        self.weights = weights
        """float32 (branches, batch)."""
        self.masks = masks
        """float32 (branches, 1 or batch, tokens of the grid), or None."""
        self.shared_softmax = shared_softmax
        """How many, from the first, share the text's softmax."""
        self.requires_grad = requires_grad
        """Whether keys, values or masks do: then they serve one call alone."""
        self._split: tuple[int, list[Tensor], list[Tensor]] | None = None
        self._kept: BranchSet | None = None

    def split(self, heads: int) -> tuple[list[Tensor], list[Tensor]]:
        """Give keys and values as views (rows, heads, tokens, head size)."""
        split = self._split
        if split is None or split[0] != heads:
            split = (
                heads,
                [split_heads(t, heads) for t in self.k],
                [split_heads(t, heads) for t in self.v],
            )
            self._split = split
        return split[1], split[2]

    def check(self, site: Site, batch: int, tokens: int) -> None:
        """Raise ValueError where queries of this many rows and tokens do not fit."""
        site.check_rows(batch)
        if self.masks is not None and tokens != self.masks.shape[2]:
            raise ValueError(
                f"q: {tokens} tokens, but a mask needs those of the grid "
                f"{site.grid[0]}×{site.grid[1]}, {self.masks.shape[2]}"
            )

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
        """Attend to text and images in one pass; what comes is checked.

        Parameters
        ----------
        q, k, v : Tensor
            (batch, heads, tokens, head size), any strides.
        scale : float or None
            Of the logits; None: head size ** -0.5.

        Returns
        -------
        Tensor
            (batch, heads, tokens, head size), laid out so that joining the heads is a view.
        """
        branch_k, branch_v = self.split(q.shape[1])
        rows, weights, masks = self.rows, self.weights, self.masks
        return branch_attention_flat(
            q, k, v, branch_k, branch_v, rows, weights, masks, self.shared_softmax, scale
        )

    def attend_joined(
        self, q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float | None = None
    ) -> Tensor:
        """Attend as ``attend`` does, without views where a kernel of ours serves.

        Parameters
        ----------
        q, k, v : Tensor
            (batch, tokens, channels), any strides.
        heads : int
            How many heads the channels hold.
        scale : float or None
            Of the logits; None: head size ** -0.5.

        Returns
        -------
        Tensor
            (batch, tokens, channels).
        """
        if not self.requires_grad and takes(q, k, v):
            kept = self._kept
            if kept is None:
                kept = self._kept = BranchSet(
                    self.k, self.v, self.rows, self.weights, self.masks, self.shared_softmax
                )
            return attend(q, k, v, kept.handle, heads, scale)
        q, k, v = (split_heads(x, heads) for x in (q, k, v))
        return join_heads(self.attend(q, k, v, scale))

    def terms(
        self, q: Tensor, k: Tensor | None, v: Tensor | None, scale: float | None = None
    ) -> Tensor:
        """Give what the branches add to attention that someone else computes.

        Parameters and result as of ``attend``. A branch that shares the text's softmax is no term
        of a sum: what it adds is the difference that it makes to plain attention to k and v.
        """
        if not self.shared_softmax:
            empty = q.new_empty(q.shape[0], q.shape[1], 0, q.shape[3])
            return self.attend(q, empty, empty, scale)
        assert k is not None and v is not None
        k, v = k.to(q.dtype), v.to(q.dtype)
        return self.attend(q, k, v, scale) - F.scaled_dot_product_attention(q, k, v, scale=scale)
