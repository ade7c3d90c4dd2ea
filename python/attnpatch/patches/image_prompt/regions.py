# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Several prompts, each in its region: what happens where their masks overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from attnpatch.engine.stack import PatchStack
from attnpatch.patches.image_prompt.prompt import ImagePrompt

__all__ = ["Overlap", "regions", "resolve_overlaps"]

Overlap = Literal["sum", "priority", "normalise"]


def regions(prompts: Sequence[ImagePrompt], *, overlap: Overlap = "sum") -> PatchStack:
    """Put several people or pictures side by side, one pass for all of them.

    Each prompt keeps its own weight and window; its mask is its region.

    Parameters
    ----------
    prompts
        Of any kind: `Identity`, `ImagePrompt`. One without a mask is for the whole picture.
    overlap
        See `resolve_overlaps`. Windows do not matter to it: a prompt keeps its region for itself
        also while it is not active.

    Returns
    -------
    PatchStack
        For ``patch_model``.

    Examples
    --------
    >>> left, right = torch.zeros(2, 64, 64)
    >>> left[:, :32], right[:, 32:] = 1, 1
    >>> people = [Identity(adapter, anna, mask=left), Identity(adapter, ben, mask=right)]
    >>> patched = patch_model(pipeline, regions(people, overlap="priority"))
    """
    prompts = list(prompts)
    for prompt in prompts:
        if not isinstance(prompt, ImagePrompt):
            raise TypeError(f"prompts: expected image prompts, got {type(prompt).__name__}")
    masks = resolve_overlaps([prompt.mask for prompt in prompts], overlap)
    return PatchStack(
        prompt if mask is prompt.mask else prompt.replace(mask=mask)
        for prompt, mask in zip(prompts, masks, strict=True)
    )


def resolve_overlaps(masks: Sequence[Tensor | None], overlap: Overlap) -> list[Tensor | None]:
    """Change masks where they overlap.

    Parameters
    ----------
    masks
        (H, W) or (samples, H, W) each, of any sizes: they are brought to the largest. None: all of
        the picture.
    overlap
        "sum": they stay, and what they mask adds up. "priority": where an earlier one is
        1, the later ones are 0; soft edges blend. "normalise": where they add up to more than 1,
        each is divided by the sum.

    Returns
    -------
    list
        A mask for each, None where it is still the whole picture.

    Raises
    ------
    ValueError
        An unknown rule; masks below 0, but for "sum".
    """
    if overlap not in get_args(Overlap):
        known = ", ".join(map(repr, get_args(Overlap)))
        raise ValueError(f"overlap: expected one of {known}, got {overlap!r}")
    drawn = [mask for mask in masks if mask is not None]
    if overlap == "sum" or not masks or (not drawn and len(masks) < 2):
        return list(masks)
    if any(bool((mask < 0).any()) for mask in drawn):
        raise ValueError(f"masks: {overlap!r} takes no values below 0")
    size = max(((mask.shape[-2], mask.shape[-1]) for mask in drawn), default=(1, 1))
    whole = torch.ones(1, *size, device=drawn[0].device if drawn else "cpu")
    planes = [whole if mask is None else _resize(mask, size) for mask in masks]
    if overlap == "priority":
        left = whole
        result = []
        for plane in planes:
            result.append(plane * left)
            left = left * (1 - plane.clamp(0, 1))
        return list(result)
    total = torch.maximum(whole, sum(planes[1:], planes[0]))
    return [plane / total for plane in planes]


def _resize(mask: Tensor, size: tuple[int, int]) -> Tensor:
    mask = mask.float()
    mask = mask[None] if mask.dim() == 2 else mask
    if tuple(mask.shape[-2:]) == size:
        return mask
    return F.interpolate(mask[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
