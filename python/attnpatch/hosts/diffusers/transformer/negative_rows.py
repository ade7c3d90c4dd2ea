# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Rows with a negative text, put beside those of a call, and taken out of its output again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from attnpatch.engine import NegativeText

__all__ = ["add_negatives", "first_rows"]

_TEXTS = ("encoder_hidden_states", "cap_feats")
# Lists with an entry for each row; other lists hold tensors that have rows.
_LISTS = ("x", "cap_feats", "img_shapes", "siglip_feats", "image_noise_mask")
_SHARED = ("txt_ids", "img_ids", "position_ids")  # of one row for all, unless they have a batch


def add_negatives(
    arguments: Mapping[str, Any], batch: int, negative: NegativeText, masks: Sequence[str]
) -> dict[str, Any]:
    """Return the arguments of a call with a row more for each that has a negative text.

    Parameters
    ----------
    arguments
        Of the model's forward, by name.
    batch
        Rows of the batch.
    negative
        The text, and the rows that have it.
    masks
        The arguments in which the model is told which tokens of the text count; for each of them
        those of the image may follow.

    Raises
    ------
    ValueError
        Where the model can not be given a text of these sizes.
    """
    rows = [*range(batch), *negative.rows]
    made = {name: _take(value, rows, batch, name) for name, value in arguments.items()}
    name = next(name for name in _TEXTS if name in arguments)
    if isinstance(arguments[name], list):
        made[name] = _lists(arguments[name], batch, negative)
        return made
    text = _each(arguments[name], batch)
    added = negative.text.to(text)
    if added.dim() != text.dim() or added.shape[2:] != text.shape[2:]:
        raise ValueError(
            f"negative: expected text embeddings of shape (1, tokens, {_sizes(text)}), as this "
            f"model's, got {tuple(added.shape)}"
        )
    own = negative.mask
    if own is None:
        own = torch.ones(added.shape[:2], dtype=torch.bool, device="cpu")
    missing = text.shape[1] - added.shape[1]
    mask_name = next((name for name in masks if name in arguments), None)
    if missing < 0 or ((missing or not bool(own.all())) and mask_name is None):
        raise ValueError(
            f"negative: expected a text of {text.shape[1]} tokens, all its own, as this model is "
            f"given beside it, got {added.shape[1]} with {int(own.sum())} of its own"
        )
    if missing:
        added = torch.cat([added, added.new_zeros(len(added), missing, *added.shape[2:])], dim=1)
        own = torch.cat([own, own.new_zeros(len(own), missing)], dim=1)
    made[name] = torch.cat([text, added])
    if mask_name is not None and (missing or not bool(own.all()) or made[mask_name] is not None):
        made[mask_name] = _mask(arguments[mask_name], own.to(text.device), text, batch)
    return made


def _each(tensor: Tensor, batch: int) -> Tensor:
    """Return a tensor with a row for each of the batch, where a pipeline gives one to all."""
    return tensor.expand(batch, *tensor.shape[1:]) if len(tensor) == 1 else tensor


def _sizes(text: Tensor) -> str:
    return ", ".join(map(str, text.shape[2:]))


def _mask(mask: Tensor | None, own: Tensor, text: Tensor, batch: int) -> Tensor:
    """Return which tokens count of all rows; what follows the text's counts."""
    if mask is None:
        mask = torch.ones(batch, text.shape[1], dtype=torch.bool, device=text.device)
    mask = _each(mask, batch)
    rest = mask.new_ones(len(own), mask.shape[1] - own.shape[1])
    return torch.cat([mask, torch.cat([own.to(mask), rest], dim=1)])


def _lists(texts: list[Any], batch: int, negative: NegativeText) -> list[Any]:
    if isinstance(texts[0], list):
        raise ValueError(
            "negative: expected a call with one text for each row, got one with references"
        )
    made = list(texts)
    for place, text in enumerate(negative.text):
        own = text if negative.mask is None else text[negative.mask[place].to(text.device)]
        if own.shape[1:] != texts[0].shape[1:]:
            raise ValueError(
                f"negative: expected text embeddings of {texts[0].shape[1]} channels, as this "
                f"model's, got {own.shape[1]}"
            )
        made.append(own.to(texts[0]))
    assert len(made) == batch + len(negative.rows)
    return made


def _take(value: Any, rows: Sequence[int], batch: int, name: str) -> Any:
    if isinstance(value, Tensor):
        shared = value.dim() == 0 or (name in _SHARED and value.dim() == 2)
        return value if shared or len(value) != batch else value[list(rows)]
    if isinstance(value, list | tuple):
        if name in _LISTS:
            return [value[row] for row in rows] if len(value) == batch else value
        return type(value)(_take(item, rows, batch, "") for item in value)
    if isinstance(value, Mapping):
        return {key: _take(item, rows, batch, key) for key, item in value.items()}
    return value


def first_rows(output: Any, batch: int) -> Any:
    """Return a model's output without the rows that were added."""
    if isinstance(output, tuple):
        return (output[0][:batch], *output[1:])
    return dataclasses.replace(output, sample=output.sample[:batch])
