# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Rows with a negative text, put beside those of a call of a transformer.

Texts of a call are one tensor here: shorter ones are padded, and the padding is to be hidden from
their rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attnpatch.engine import PADDING, TEXT, UNCOND, Call, NegativeText, Part, Tokens, joined

__all__ = ["AddedRows", "add_negatives", "with_padding", "with_rows"]

_NOT_OF_ROWS = ("transformer_options",)


@dataclass(frozen=True)
class AddedRows:
    """A call with rows that have a negative text.

    Parameters
    ----------
    arguments
        By name.
    hidden
        For each row where its text is padded: the first token, and the one after the last.
    own
        Where the text of the rows is that were there before.
    """

    arguments: dict[str, Any]
    hidden: tuple[tuple[int, int], ...]
    own: tuple[int, int]


def add_negatives(
    arguments: Mapping[str, Any],
    negative: NegativeText,
    *,
    text: str = "context",
    least: int = 0,
    last: bool = False,
    multiple: int = 1,
) -> AddedRows:
    """Return the arguments of a call with a row more for each that has a negative text.

    Parameters
    ----------
    arguments
        Of the model's forward, by name.
    negative
        The text, and the rows that have it.
    text
        The name of the text among the arguments.
    least
        To how many tokens the host pads a text with zeros in front, which the model sees.
    last
        Whether the image's positions follow those of the text, so that padding stands in front.
    multiple
        Of how many tokens that padding is, of rows that were there before.

    Raises
    ------
    ValueError
        Where the negative has other channels than the model's text.
    """
    given = arguments[text]
    texts = [_own(negative, place).to(given) for place in range(len(negative.rows))]
    if texts[0].dim() + 1 != given.dim() or texts[0].shape[1:] != given.shape[2:]:
        raise ValueError(
            f"negative: expected text embeddings of {given.shape[2]} channels, as this model's, "
            f"got {texts[0].shape[-1]}"
        )
    texts = [_padded(one, least, front=True) for one in texts]
    before, batch = given.shape[1], len(given)
    more = max(0, max(map(len, texts)) - before)
    length = before + -(-more // multiple) * multiple
    rows = [*range(batch), *negative.rows]
    made = {
        name: value if name in _NOT_OF_ROWS else _take(value, rows, batch)
        for name, value in arguments.items()
    }
    every = [*given, *texts]
    made[text] = torch.stack([_padded(one, length, front=last) for one in every])
    if "num_tokens" in made:
        made["num_tokens"] = length
    if made.get("attention_mask") is not None:
        made["attention_mask"] = _mask(
            arguments["attention_mask"], length, len(texts), before, last
        )
    spans = [_span(len(one), length, last) for one in every]
    return AddedRows(
        made,
        tuple(_rest(span, length) for span in spans) if len(set(spans)) > 1 or more else (),
        spans[0],
    )


def with_padding(tokens: Tokens, first: int, own: tuple[int, int]) -> Tokens:
    """Return the tokens of a sequence in which only these of the text from `first` are its own."""
    parts: list[Part] = []
    for span in tokens.spans:
        assert span.stop is not None
        count = span.stop - span.start
        if span.start == first and span.name == TEXT:
            parts += [(PADDING, own[0], None), (TEXT, own[1] - own[0], None)]
            parts.append((PADDING, count - own[1], None))
        else:
            parts.append((span.name, count, span.grid))
    return joined(parts)


def with_rows(call: Call, rows: tuple[int, ...], hidden: tuple[tuple[int, int], ...]) -> Call:
    """Return a call with a row more for each of these, which has the negative text of it."""
    every = (*range(call.batch), *rows)
    times = {
        name: value if not isinstance(value, tuple) else tuple(value[row] for row in every)
        for name in ("progress", "sigma", "timestep")
        for value in (getattr(call, name),)
    }
    return replace(
        call,
        batch=len(every),
        chunks=(*call.roles, *(UNCOND for _ in rows)),
        samples=tuple(call.row_samples[row] for row in every),
        slots=tuple(call.row_slots[row] for row in every),
        crops=tuple(call.crops[row] for row in every) if call.crops else (),
        negatives=(*(-1 for _ in range(call.batch)), *rows),
        hidden=hidden,
        **times,
    )


def _own(negative: NegativeText, place: int) -> Tensor:
    """Return the tokens of one row's negative that are its own."""
    text = negative.text[place]
    return text if negative.mask is None else text[negative.mask[place].to(text.device)]


def _padded(text: Tensor, length: int, *, front: bool) -> Tensor:
    """Return a text (tokens, channels) with zeros, up to a length."""
    missing = max(0, length - len(text))
    return F.pad(text, (0, 0, missing, 0) if front else (0, 0, 0, missing))


def _span(tokens: int, length: int, last: bool) -> tuple[int, int]:
    return (length - tokens, length) if last else (0, tokens)


def _rest(span: tuple[int, int], length: int) -> tuple[int, int]:
    """Return what is beside a span that begins or ends a text."""
    if span == (0, length):
        return 0, 0
    return (span[1], length) if span[0] == 0 else (0, span[0])


def _mask(mask: Tensor, length: int, added: int, before: int, last: bool) -> Tensor:
    """Return which tokens count of all rows; padding of ours does: it is hidden otherwise."""
    if mask.shape[-1] != before or mask.dim() != 2:
        raise ValueError(
            f"negative: expected an attention mask of the {before} tokens of the text beside it, "
            f"got one of {tuple(mask.shape)}"
        )
    counts = 0.0 if mask.is_floating_point() else 1
    missing = length - before
    mask = F.pad(mask, (missing, 0) if last else (0, missing), value=counts)
    return torch.cat([mask, mask.new_full((added, length), counts)])


def _take(value: Any, rows: Sequence[int], batch: int) -> Any:
    """Return these rows of all tensors that have rows."""
    if isinstance(value, Tensor):
        return value[list(rows)] if value.dim() and len(value) == batch else value
    if isinstance(value, list | tuple):
        return type(value)(_take(item, rows, batch) for item in value)
    if isinstance(value, Mapping):
        return {name: _take(item, rows, batch) for name, item in value.items()}
    return value
