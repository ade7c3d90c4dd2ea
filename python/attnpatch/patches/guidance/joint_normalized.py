# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Normalized attention guidance in joint attention: rows with a negative text, and one image.

A row that has a negative text goes through the model beside its own. Text and image attend to each
other, so that the text is another one in each layer, but the image stays one: what it gets is
guided, and both rows are given that. Texts of other lengths are padded to one; where the host does
not hide the padding, a bias of the scores does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attnpatch._core import Window
from attnpatch.engine.edits import Edits, Inner
from attnpatch.engine.heads import join_heads, split_heads
from attnpatch.engine.joint_layers import JointTable
from attnpatch.engine.patch import BoundPatch, NegativeText
from attnpatch.engine.rows import sample_rows
from attnpatch.engine.score_bias import BiasTerm
from attnpatch.engine.site import COND, Call, Site
from attnpatch.engine.tokens import PADDING, TEXT, Tokens
from attnpatch.engine.window import is_active
from attnpatch.patches.guidance.bound_normalized import (
    NormalizedAttention,
    check_no_blocks,
    guide_normalized,
)

__all__ = ["BoundJointNormalized"]

TimeKey = tuple[bool, ...]
"""For all rows, or for each row of the batch, whether it is active now."""


class BoundJointNormalized(BoundPatch):
    """Normalized attention guidance fitted to one model with joint attention."""

    def __init__(self, patch: NormalizedAttention, table: JointTable) -> None:
        check_no_blocks(patch, table)
        self.patch = patch
        self.window = Window(patch.start, patch.end)
        self.time_dependent = not self.window.full
        reason = None
        if patch.scale == 1 or patch.alpha == 0:
            reason = "scale 1" if patch.scale == 1 else "alpha 0"
        self._skipped = (reason,) * len(table)
        self.tells_roles_apart = reason is None
        self._wrapper = JointNormalized(patch)

    @property
    def skipped(self) -> Sequence[str | None]:
        """For each layer why it never acts there; None where it may act."""
        return self._skipped

    def time_key(self, call: Call) -> TimeKey | None:
        """Tell for which rows it is active now; None: for none."""
        if self._skipped[0] is not None:
            return None
        active = tuple(is_active(self.window, point.progress) for point in call.points)
        return active if any(active) else None

    def negative_text(self, call: Call) -> NegativeText | None:
        """Return the negative text of cond rows in whose time it is active."""
        key = self.time_key(call)
        if key is None:
            return None
        active = key * (call.batch // len(key))
        rows = tuple(
            row
            for row, (role, on) in enumerate(zip(call.roles, active, strict=True))
            if role == COND and on
        )
        if not rows:
            return None
        patch = self.patch
        texts = sample_rows(call, len(patch.negative), "negative")
        places = torch.tensor([texts[row] for row in rows], device="cpu")
        mask = patch.attention_mask
        return NegativeText(
            rows,
            patch.negative.index_select(0, places.to(patch.negative.device)),
            None if mask is None else mask.bool().index_select(0, places.to(mask.device)),
            always=self.window.full,
        )

    def edits(self, call: Call, time_key: TimeKey) -> Edits:
        """One wrapper at all layers, in calls with rows of the negative; padding is hidden."""
        if not call.negatives:
            return Edits()
        return Edits(
            wrappers=dict.fromkeys(range(len(self._skipped)), self._wrapper),
            biases=tuple(HiddenKeys(keys) for keys in sorted(set(call.hidden)) if keys[1]),
        )


class HiddenKeys:
    """Hides some keys from the rows of a call that must not attend to them; see ``ScoreBias``.

    Parameters
    ----------
    keys
        The first of them, and the one after the last.
    """

    def __init__(self, keys: tuple[int, int]) -> None:
        self._keys = slice(*keys)

    def strength(self, layer: int) -> float:
        """Return the same for all layers."""
        return 1.0

    def term(self, site: Site, keys: int, strength: float) -> BiasTerm:
        """Return its term at a site."""
        queries = max(span.stop or 0 for span in site.queries.spans)
        rows = [hidden == (self._keys.start, self._keys.stop) for hidden in site.call.hidden]
        taken = torch.tensor(rows, device="cpu")
        gone = torch.zeros(1, keys, device="cpu")
        gone[:, self._keys] = -torch.inf
        return BiasTerm(
            queries=taken.float()[:, None].expand(-1, queries).contiguous(),
            keys=gone,
            chosen=gone < 0,
        )


class JointNormalized:
    """Guides what all but the text gets in joint attention; see ``AttentionWrapper``."""

    reduces = False
    needs_all_tokens = False
    needs_grid = False

    def __init__(self, patch: NormalizedAttention) -> None:
        self._patch = patch

    def prepare(self, site: Site, dtype: torch.dtype, device: torch.device) -> None:
        """Keep nothing."""

    def reduce(self, site: Site, k_input: Tensor, v_input: Tensor) -> tuple[Tensor, Tensor]:
        """Leave keys and values as they are."""
        return k_input, v_input

    def attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """Attend, and give the guided image to a row and to that of its negative."""
        out = inner(q, k, v)
        pairs = [
            (positive, row) for row, positive in enumerate(site.call.negatives) if positive >= 0
        ]
        rows, negatives = (
            torch.tensor(some, device=out.device) for some in zip(*pairs, strict=True)
        )
        patch = self._patch
        assert patch.scale is not None
        result = out.clone()
        for part in _beside_text(site.queries):
            guided = guide_normalized(
                join_heads(out[rows][:, :, part]),
                join_heads(out[negatives][:, :, part]),
                patch.scale,
                patch.tau,
                patch.alpha,
                euclidean=patch.compat is not None,
            )
            apart = split_heads(guided, out.shape[1])
            result[rows, :, part] = apart
            result[negatives, :, part] = apart
        return result


def _beside_text(tokens: Tokens) -> list[slice]:
    """Return where the tokens are that are not the text's, nor padding beside it."""
    parts: list[slice] = []
    of_text = True
    for span in tokens.spans:
        of_text = span.name == TEXT or (of_text and span.name == PADDING)
        if of_text:
            continue
        if parts and parts[-1].stop == span.start:
            parts[-1] = slice(parts[-1].start, span.stop)
        else:
            parts.append(slice(span.start, span.stop))
    return parts
