# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Normalized attention guidance in cross-attention: its arithmetic, and which rows have it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from attnpatch._core import Layer, LayerTable, Window
from attnpatch.engine.cache import Cache, where
from attnpatch.engine.edits import Edits
from attnpatch.engine.heads import join_heads
from attnpatch.engine.joint_layers import JointLayer, JointTable
from attnpatch.engine.patch import BoundPatch
from attnpatch.engine.rows import sample_rows
from attnpatch.engine.site import COND, Call
from attnpatch.engine.window import is_active
from attnpatch.patches.guidance.blocks import find_blocks

__all__ = [
    "BoundNormalizedAttention",
    "NormalizedAttention",
    "NormalizedGuide",
    "check_no_blocks",
    "guide_normalized",
]

TimeKey = bool | tuple[bool, ...]
"""Whether it is active now, or for each row of the batch."""


@dataclass(frozen=True, match_args=False)  # its members are read alone
class NormalizedAttention(Protocol):
    """The patch, as far as its bound form asks; see ``NormalizedAttentionGuidance``."""

    negative: Tensor
    attention_mask: Tensor | None
    scale: float | None
    tau: float
    alpha: float
    start: float
    end: float
    blocks: str | None
    compat: str | None


def guide_normalized(
    positive: Tensor,
    negative: Tensor,
    scale: float,
    tau: float,
    alpha: float,
    *,
    euclidean: bool = False,
) -> Tensor:
    """Lead attention's output away from what it is for a negative text, by norms of each token.

    With z̃ = scale · z⁺ − (scale − 1) · z⁻ and f = min(1, tau · ‖z⁺‖ / ‖z̃‖), what
    arXiv 2505.21179 gives, alpha · f · z̃ + (1 − alpha) · z⁺, is one sum of z⁺ and z⁻. Norms and
    factors are float32.

    Parameters
    ----------
    positive, negative : Tensor
        z⁺ and z⁻, (batch, tokens, channels), all heads side by side.
    scale, tau, alpha : float
        As of ``NormalizedAttentionGuidance``.
    euclidean : bool
        Norms are Euclidean, not sums of absolute values.

    Returns
    -------
    Tensor
        As `positive`.
    """
    order = 2 if euclidean else 1
    plus, minus = (positive, negative)
    if positive.dtype in (torch.float16, torch.bfloat16):
        plus, minus = positive.float(), negative.float()
    norm = torch.linalg.vector_norm(plus, order, -1, keepdim=True)
    away = torch.linalg.vector_norm(torch.lerp(minus, plus, scale), order, -1, keepdim=True)
    limit = tau * norm
    # Where z̃ is 0 so is what it gives, whatever the factor: no division by it.
    factor = alpha * torch.where(away > limit, limit / away.clamp(min=_SMALLEST), 1.0)
    guided = plus * (factor * scale + (1.0 - alpha)) - minus * (factor * (scale - 1.0))
    return guided.to(positive.dtype)


_SMALLEST = torch.finfo(torch.float32).tiny


def check_no_blocks(patch: NormalizedAttention, table: JointTable) -> None:
    """Raise ValueError where blocks are named in a model that has none of a UNet's."""
    if patch.blocks is not None:
        raise ValueError(
            f"blocks: expected None in the attention of a {table.family}, which has no blocks of a "
            f"UNet, got {patch.blocks!r}"
        )


class BoundNormalizedAttention(BoundPatch):
    """Normalized attention guidance fitted to one model with cross-attention."""

    def __init__(self, patch: NormalizedAttention, table: LayerTable | JointTable) -> None:
        self.patch = patch
        self.window = Window(patch.start, patch.end)
        self.time_dependent = not self.window.full
        self._wanted: frozenset[Layer] | None = None
        if isinstance(table, JointTable):
            check_no_blocks(patch, table)
        elif patch.blocks is not None:
            self._wanted = find_blocks(table, patch.blocks)
        self._skipped = tuple(self._reason(layer) for layer in table)
        self._layers = [i for i, reason in enumerate(self._skipped) if reason is None]
        self.guides_text = self.tells_roles_apart = bool(self._layers)
        self.context_channels = patch.negative.shape[2]

    def _reason(self, layer: Layer | JointLayer) -> str | None:
        patch = self.patch
        if self._wanted is not None and layer not in self._wanted:
            return f"not of the blocks {patch.blocks}"
        if patch.scale == 1:
            return "scale 1"
        if patch.alpha == 0:
            return "alpha 0"
        return None

    @property
    def skipped(self) -> Sequence[str | None]:
        """For each layer why it never acts there; None where it may act."""
        return self._skipped

    def time_key(self, call: Call) -> TimeKey | None:
        """Tell whether it is active now, or for which rows; None: for none."""
        if not self._layers:
            return None
        active = tuple(is_active(self.window, point.progress) for point in call.points)
        if not any(active):
            return None
        return True if all(active) else active

    def edits(self, call: Call, time_key: TimeKey) -> Edits:
        """One guide at all of its layers, for cond rows; in degraded passes too.

        What PAG and SEG take from the cond prediction is then their own change alone.
        """
        active = (True,) * call.batch if isinstance(time_key, bool) else time_key
        pictures = sample_rows(call, len(self.patch.negative), "negative")
        rows = tuple(
            picture if role == COND and on else -1
            for picture, role, on in zip(pictures, call.roles, active, strict=True)
        )
        if max(rows) < 0:
            return Edits()
        return Edits(text_guides=dict.fromkeys(self._layers, NormalizedGuide(self.patch, rows)))


class NormalizedGuide:
    """Normalized attention guidance in calls of one layout and time; see ``TextGuide``.

    Parameters
    ----------
    patch
        The guidance.
    rows
        For each row of the batch which negative leads it away; -1: none does.
    """

    name = "NormalizedAttentionGuidance"

    def __init__(self, patch: NormalizedAttention, rows: tuple[int, ...]) -> None:
        self._patch = patch
        self._rows = rows
        own, count = patch.attention_mask, patch.negative.shape[1]
        self._spans: dict[int, tuple[int, int]] = {}
        self.tokens = 0
        for picture in sorted(set(rows) - {-1}):
            tokens = count if own is None else int(own[picture].sum())
            self._spans[picture] = (self.tokens, self.tokens + tokens)
            self.tokens += tokens
        self.requires_grad = patch.negative.requires_grad
        self._contexts = Cache(size=4)

    def context(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Give the negative texts of these rows, (1, tokens, channels)."""

        def make() -> Tensor:
            negative, own = self._patch.negative, self._patch.attention_mask
            # Padding is left out, and texts stand one after the other: no mask is needed.
            parts = [
                negative[i] if own is None else negative[i][own[i].to(negative.device)]
                for i in self._spans
            ]
            return torch.cat(parts)[None].to(device=device, dtype=dtype)

        return make() if self.requires_grad else self._contexts.get((dtype, where(device)), make)

    def guide(self, text: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        """Guide attention to the text, (batch, N, channels), in its rows."""
        if len(text) != len(self._rows):
            raise ValueError(
                f"q: expected {len(self._rows)} rows, one for each of the call's batch, got "
                f"{len(text)}"
            )
        pieces, start = [], 0
        for picture, run in groupby(self._rows):
            rows = slice(start, start + len(list(run)))
            start = rows.stop
            piece = text[rows]
            if picture >= 0:
                piece = self._guided(piece, q[rows], k, v, picture, scale)
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _guided(
        self, text: Tensor, q: Tensor, k: Tensor, v: Tensor, picture: int, scale: float | None
    ) -> Tensor:
        first, last = self._spans[picture]
        keys, values = (x[:, :, first:last].expand(len(q), -1, -1, -1) for x in (k, v))
        negative = join_heads(F.scaled_dot_product_attention(q, keys, values, scale=scale))
        patch = self._patch
        assert patch.scale is not None
        return guide_normalized(
            text, negative, patch.scale, patch.tau, patch.alpha, euclidean=patch.compat is not None
        )
