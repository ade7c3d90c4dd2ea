# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Image prompts of several pictures as rows of one batch, each row with its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from attnpatch.engine.weights import Weight
from attnpatch.patches.image_prompt.keys_values import KeysValues
from attnpatch.patches.image_prompt.parts import Part
from attnpatch.patches.image_prompt.prompt import ImagePrompt

__all__ = ["join_rows", "joint_key"]


def join_rows(rows: Sequence[Sequence[ImagePrompt]]) -> list[ImagePrompt]:
    """Make the image prompts that give each picture of a batch what it would have alone.

    Prompts that differ in their weight's number, their mask's values or their pictures become one,
    which has a row of these for each picture; a picture without it has the weight 0 there.

    Parameters
    ----------
    rows : sequence of sequences of ImagePrompt
        For each picture of the batch its own prompts, each of one picture.

    Returns
    -------
    list of ImagePrompt

    Raises
    ------
    ValueError
        For prompts of several pictures, or that train; for such with ``compat="fooocus"`` that
        only some of the pictures have: theirs count even at weight 0.
    """
    if len(rows) == 1:
        return list(rows[0])
    groups: dict[Hashable, dict[int, ImagePrompt]] = {}
    for place, prompts in enumerate(rows):
        seen: Counter[Hashable] = Counter()
        for prompt in prompts:
            key = joint_key(prompt)
            seen[key] += 1
            groups.setdefault((key, seen[key]), {})[place] = prompt
    return [_joined(members, len(rows)) for members in groups.values()]


def joint_key(prompt: ImagePrompt) -> Hashable:
    """Return what prompts have to have in common to become one.

    Raises
    ------
    ValueError
        For a prompt of several pictures, or one that trains.
    """
    kv = prompt.keys_values
    if prompt.samples != 1 or prompt.requires_grad:
        raise ValueError(
            "image prompt: expected one of one picture, without gradients, "
            f"got {prompt.samples} pictures, requires_grad={prompt.requires_grad}"
        )
    layers = kv.channels, kv.dtype, kv.own_tokens, kv.negatives, tuple(p.tokens for p in kv.parts)
    mask = None if prompt.mask is None else tuple(prompt.mask.shape)
    return (
        type(prompt),
        layers,
        mask,
        prompt.weight.layers,
        prompt.weight.curve,
        prompt.start,
        prompt.end,
        prompt.end_exclusive,
        prompt.scaling,
        prompt.shared_softmax,
        prompt.roles,
        prompt.mask_resize,
        prompt.compat,
    )


def _scale(prompt: ImagePrompt) -> float:
    (factor,) = prompt.weight.samples or (1.0,)
    return prompt.weight.scale * factor


def _joined(members: Mapping[int, ImagePrompt], count: int) -> ImagePrompt:
    first = next(iter(members.values()))
    if first.compat == "fooocus" and len(members) < count:
        raise ValueError(
            f"image prompt: with compat='fooocus' expected it in all {count} pictures of the batch "
            f"or in none, got it in {len(members)}"
        )
    rows = [members.get(place, first) for place in range(count)]
    scales = [_scale(members[place]) if place in members else 0.0 for place in range(count)]
    changes: dict[str, Any] = {}
    if len(set(scales)) > 1:
        weight = first.weight
        changes["weight"] = Weight(1.0, weight.layers, weight.curve, tuple(scales))
    masks = [row.mask for row in rows]
    if not all(_same(mask, first.mask) for mask in masks):
        changes["mask"] = torch.cat([mask for mask in masks if mask is not None])
    joined = first.replace(**changes) if changes else first
    found = {id(row.keys_values): row.keys_values for row in rows}
    if len(found) == 1:
        return joined
    return joined.with_keys_values(_join_keys_values([row.keys_values for row in rows]))


def _same(mask: Tensor | None, other: Tensor | None) -> bool:
    return mask is other or (mask is not None and other is not None and torch.equal(mask, other))


def _join_keys_values(rows: Sequence[KeysValues]) -> KeysValues:
    """Put the rows of all pictures after each other, then those of all negatives."""
    first = rows[0]
    count = len(rows)
    parts = []
    for number, part in enumerate(first.parts):
        own = [row.parts[number].layers for row in rows]
        layers: list[tuple[Tensor, Tensor]] = []
        for index in range(len(part.channels)):
            pairs = [layer[index] for layer in own]
            # A part holds a picture, its negative, or one after the other.
            keys, values = (torch.stack(t, dim=1).flatten(0, 1) for t in zip(*pairs, strict=True))
            layers.append((keys, values))
        parts.append(Part(count if part.first else 0, count * part.rows, tuple(layers)))
    return replace(first, pictures=count, negatives=count * first.negatives, parts=tuple(parts))
