# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Which keys a gain is for: those of a reference, of a part of one, or of words of the text."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from attnpatch.engine.masks import resize_mask, to_mask
from attnpatch.engine.tokens import REFERENCE, TEXT, Span, Tokens

__all__ = ["Keys", "ReferenceKeys", "TextKeys"]


@dataclass(frozen=True, eq=False, repr=False)
class ReferenceKeys:
    """The keys of a reference picture, or of a part of it.

    Parameters
    ----------
    index : int or None
        Which of several references, in the order in which the model is given them, from 0; None:
        all of them.
    mask : array or Tensor or None
        Which part of it, (H, W), over the whole reference in any size: its tokens are those of
        which more than a half is covered. None: all of it.

    Raises
    ------
    TypeError, ValueError
        For what is no index or no mask.
    """

    index: int | None = 0
    mask: Any = None

    span: ClassVar[str] = REFERENCE
    some_words: ClassVar[bool] = False

    def __post_init__(self) -> None:
        index = self.index
        if index is not None:
            index = _index("index", index)
        object.__setattr__(self, "index", index)
        if self.mask is not None:
            mask = to_mask(self.mask, name="reference mask")
            if len(mask) != 1:
                raise ValueError(f"reference mask: expected one picture, got {len(mask)}")
            if not bool((mask > 0.5).any()):
                raise ValueError("reference mask: expected some of it above a half, got none")
            object.__setattr__(self, "mask", mask)

    def choose(self, tokens: Tokens, count: int, rows: Sequence[int] = ()) -> Tensor:
        """Return which of `count` keys are meant, bool (1, count): in all rows the same.

        Raises
        ------
        ValueError
            Where there is no such reference, or a mask meets one whose grid is not known.
        """
        chosen = torch.zeros(1, count, dtype=torch.bool, device="cpu")
        spans = [span for span in tokens.spans if span.name == REFERENCE]
        if self.index is not None:
            spans = [span for span in spans if span.index == self.index]
        if not spans:
            there = sum(span.name == REFERENCE for span in tokens.spans)
            raise ValueError(
                f"reference: expected one of index {self.index}, got a call with {there} references"
            )
        for span in spans:
            chosen[:, span.start : span.stop] = True if self.mask is None else self._inside(span)
        return chosen

    def _inside(self, span: Span) -> Tensor:
        if span.grid is None:
            raise ValueError(
                f"reference mask: expected a reference whose rows and columns are known, got "
                f"reference {span.index}, of which the host does not tell them"
            )
        assert isinstance(self.mask, Tensor)
        inside = resize_mask(self.mask, span.grid, "area")[0] > 0.5
        if not bool(inside.any()):
            raise ValueError(
                "reference mask: expected it to cover more than half of a token, got none at "
                f"{span.grid[0]} × {span.grid[1]} tokens"
            )
        return inside

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Plain values, and tensors."""
        tensors = {} if self.mask is None else {"reference_mask": self.mask}
        return {"reference": self.index}, tensors

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ReferenceKeys):
            return NotImplemented
        return self.index == other.index and _same(self.mask, other.mask)

    def __hash__(self) -> int:
        return hash(self.index)

    def __repr__(self) -> str:
        part = "" if self.mask is None else f", mask of {tuple(self.mask.shape[1:])}"
        return f"ReferenceKeys({self.index}{part})"


@dataclass(frozen=True)
class TextKeys:
    """The keys of some tokens of the text.

    Parameters
    ----------
    tokens : sequence of int or None
        Which tokens of the text as the model is given it, from 0; a range is a sequence. None: all
        of it. `token_positions` finds those of a word.

    Raises
    ------
    TypeError, ValueError
        For what are no whole numbers of at least 0.
    """

    tokens: tuple[int, ...] | None = None

    span: ClassVar[str] = TEXT

    def __post_init__(self) -> None:
        if self.tokens is None:
            return
        raw: Any = self.tokens
        if not isinstance(raw, Iterable) or isinstance(raw, str):
            raise TypeError(f"tokens: expected a sequence of whole numbers, got {raw!r}")
        tokens = tuple(sorted({_index("tokens", token) for token in raw}))
        if not tokens:
            raise ValueError("tokens: expected at least one, got none")
        object.__setattr__(self, "tokens", tokens)

    def choose(self, tokens: Tokens, count: int, rows: Sequence[int] = ()) -> Tensor:
        """Return which of `count` keys are meant, bool (1 or batch, count).

        A text that a host repeats is meant as often as it stands there. `rows` are those of the
        batch that are asked for; where rows differ, none is meant in the others.

        Raises
        ------
        ValueError
            Where the text of a row has fewer tokens.
        """
        spans = [span for span in tokens.spans if span.name == TEXT]
        batch = max((len(span.rows or span.repeats) for span in spans), default=0)
        chosen = torch.zeros(batch or 1, count, dtype=torch.bool, device="cpu")
        for row in rows if batch else (0,):
            chosen[row] = self._chosen(spans, count, row)
        return chosen

    def _chosen(self, spans: Sequence[Span], count: int, row: int) -> Tensor:
        """Return which of `count` keys are meant in one row, bool (count,)."""
        # Where each token of the text stands: the first place, behind the last, and the step.
        places = [
            slice(first, stop, own)
            for span in spans
            for stop, own in (_extent(span, count, row),)
            for first in range(span.start, span.start + own)
        ]
        if self.tokens is not None:
            if self.tokens[-1] >= len(places):
                raise ValueError(
                    f"tokens: expected tokens of a text of {len(places)}, got {self.tokens[-1]}"
                )
            places = [places[token] for token in self.tokens]
        chosen = torch.zeros(count, dtype=torch.bool, device="cpu")
        for place in places:
            chosen[place] = True
        return chosen

    @property
    def some_words(self) -> bool:
        """Whether they are some tokens of the text, not all."""
        return self.tokens is not None

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Plain values, and tensors."""
        return {"text": None if self.tokens is None else list(self.tokens)}, {}


def _extent(span: Span, count: int, row: int) -> tuple[int, int]:
    """Return the token behind the last that a row's text fills, and after how many it repeats."""
    stop = count if span.stop is None else span.stop
    if span.repeats:
        return stop, (stop - span.start) // span.repeats[row]
    own = span.rows[row] if span.rows else stop - span.start
    return span.start + own, own


Keys = ReferenceKeys | TextKeys


def keys_from_state(values: dict[str, Any], tensors: dict[str, Tensor]) -> Keys:
    """Make keys again from what `state` gave."""
    if "reference" in values:
        return ReferenceKeys(values["reference"], tensors.get("reference_mask"))
    return TextKeys(values["text"])


def _index(name: str, value: Any) -> int:
    try:
        index = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected whole numbers, got {value!r}") from None
    if index < 0:
        raise ValueError(f"{name}: expected whole numbers of at least 0, got {value!r}")
    return index


def _same(ours: Any, theirs: Any) -> bool:
    if ours is None or theirs is None:
        return ours is theirs
    return torch.equal(ours, theirs)
