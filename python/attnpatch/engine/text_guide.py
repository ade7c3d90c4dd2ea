# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Guidance of attention to the text by keys and values of texts of a patch's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from attnpatch.engine.heads import split_heads

__all__ = ["MoreKeys", "TextGuide", "TextGuides"]

MoreKeys = tuple[Tensor, Tensor]
"""Keys and values (1, heads, tokens, head size), projected from ``SiteAttention.context``."""


class TextGuide(Protocol):
    """One patch's guidance of attention to the text, in calls of one layout and time.

    It holds nothing of a running call, and is the same at all layers where it acts.
    """

    name: str
    """Name of the patch, for errors."""
    tokens: int
    """How many tokens its context has."""
    requires_grad: bool
    """Whether its context does: then that is made anew at each layer."""

    def context(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Give what its keys and values are projected from, (1, tokens, channels of the text)."""

    def guide(self, text: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        """Guide what attention to the text gave.

        Parameters
        ----------
        text : Tensor
            (batch, N, channels): attention to the text alone, heads side by side.
        q : Tensor
            (batch, heads, N, size).
        k, v : Tensor
            (1, heads, tokens, size): of its context.
        scale : float or None
            Of the logits; None: size ** -0.5.

        Returns
        -------
        Tensor
            As `text`: the same tensor, or rows of it, where it has nothing to do.
        """


class TextGuides:
    """All guides of a stack at one layer; the first of the stack guides last."""

    __slots__ = ("_guides", "requires_grad", "tokens")

    def __init__(self, guides: Sequence[TextGuide]) -> None:
        self._guides = tuple(guides)[::-1]
        self.tokens = sum(guide.tokens for guide in self._guides)
        """How many tokens the context has."""
        self.requires_grad = any(guide.requires_grad for guide in self._guides)

    def context(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Give what more keys and values are projected from, (1, tokens, channels)."""
        parts = [guide.context(dtype, device) for guide in self._guides]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def split(self, k: Tensor, v: Tensor, heads: int) -> tuple[Tensor, Tensor, MoreKeys]:
        """Take keys and values (batch, T + tokens, channels) of a host apart.

        For hosts that append the context to the text before they project it.
        """
        count = k.shape[1] - self.tokens
        more = (split_heads(x[:1, count:], heads) for x in (k, v))
        return k[:, :count], v[:, :count], tuple(more)  # type: ignore[return-value]

    def guide(self, text: Tensor, q: Tensor, more: MoreKeys | None, scale: float | None) -> Tensor:
        """Guide attention to the text (batch, N, channels); see ``TextGuide.guide``.

        Raises
        ------
        ValueError
            Where there are no keys and values of the context, or others than it has tokens.
        """
        count = 0 if more is None else more[0].shape[2]
        if more is None or count != self.tokens:
            raise ValueError(
                f"{self._guides[-1].name}: expected keys and values of {self.tokens} more tokens, "
                f"projected from the context of SiteAttention.context, got {count}"
            )
        start = 0
        for guide in self._guides:
            k, v = (x[:, :, start : start + guide.tokens].to(q.dtype) for x in more)
            text = guide.guide(text, q, k, v, scale)
            start += guide.tokens
        return text
