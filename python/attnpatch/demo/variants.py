# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""What the demo generates: one list, run on the embedded model and on a user's own alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

import attnpatch as ap
from attnpatch.engine import Patch

DEFAULT_WEIGHTS = (0.1, 0.25, 0.5, 1.0)
SAG_SCALES = (0.5, 1.0, 2.0, 4.0)
# Of self-attention, as strong at every step: for grids of a few tokens, and for whole pictures.
SMALL_REDUCTIONS = {
    "Slothful 2": ap.SlothfulAttention(time_decay=0, in_slothful=2, out_slothful=2),
    "Slothful 4": ap.SlothfulAttention(time_decay=0, in_slothful=4, out_slothful=4),
    "Slothful 9": ap.SlothfulAttention(time_decay=0, in_slothful=9, out_slothful=9),
    "merging 0.5": ap.TokenMerging(ratio=0.5),
    "merging 0.75": ap.TokenMerging(ratio=0.75),
    "HyperTile 32": ap.HyperTile(tile_size=32),
}
LARGE_REDUCTIONS = {
    "Slothful 4": SMALL_REDUCTIONS["Slothful 4"],
    "Slothful 9": SMALL_REDUCTIONS["Slothful 9"],
    "Near-sighted Tile": ap.NearSightedTile(),
    "Near-sighted 4": ap.NearSightedAttention.simple(slothful=4, time_decay=0),
    "Near-sighted 9": ap.NearSightedAttention.simple(slothful=9, time_decay=0),
    "merging 0.5": ap.TokenMerging(ratio=0.5),
}
WINDOWS = ((0.0, 0.2), (0.0, 0.5), (0.2, 1.0), (0.5, 1.0))


@dataclass(frozen=True)
class Variant:
    """One way to use the image prompts.

    Attributes
    ----------
    group : str
        "weight", "window", "mask", "guidance" or "tokens": the sheet's section.
    name : str
    weight : float
        0 in the plain variant, which is not patched at all.
    start, end : float
        The window in which the image prompt is active, in 0 to 1 of sampling.
    region : str
        "all"; "left": the reference on the left half; "right": its partner on the right half;
        "both": each on its half.
    sag : float
        The scale of self-attention guidance.
    reduction : attnpatch.patches.Patch or None
        What gives self-attention fewer tokens.
    """

    group: str
    name: str
    weight: float = 0.0
    start: float = 0.0
    end: float = 1.0
    region: str = "all"
    sag: float = 0.0
    reduction: Patch | None = None

    @property
    def patched(self) -> bool:
        """Whether the variant has any image prompt."""
        return self.name != PLAIN.name


PLAIN = Variant("weight", "no image prompt")


def plan(
    weights: Sequence[float],
    masks: bool = True,
    reductions: Mapping[str, Patch] = SMALL_REDUCTIONS,
) -> tuple[Variant, ...]:
    """List the variants: plain, each weight; at the largest windows, guidance, tokens, masks."""
    top = max(weights, key=abs)
    variants = [PLAIN]
    variants += [Variant("weight", f"weight {weight:g}", weight) for weight in weights]
    variants += [
        Variant("window", f"{100 * start:.0f} to {100 * end:.0f} %", top, start=start, end=end)
        for start, end in WINDOWS
    ]
    variants += [Variant("guidance", f"SAG {sag:g}", top, sag=sag) for sag in SAG_SCALES]
    variants += [
        Variant("tokens", name, top, reduction=patch) for name, patch in reductions.items()
    ]
    if masks:
        variants += [
            Variant("mask", "left half", top, region="left"),
            Variant("mask", "right half", top, region="right"),
            Variant("mask", "both halves", top, region="both"),
        ]
    return tuple(variants)


def half_mask(height: int, width: int, side: str) -> torch.Tensor:
    """Make a mask (height, width), float32: 1 on the "left" or the "right" half, 0 elsewhere."""
    mask = torch.zeros(height, width)
    if side == "left":
        mask[:, : width // 2] = 1.0
    else:
        mask[:, width // 2 :] = 1.0
    return mask


def make_patches(
    variant: Variant, adapter: Any, embeds: Any, partner_embeds: Any, size: tuple[int, int]
) -> list[Any]:
    """Make the image prompts of a variant, its guidance, and what reduces its tokens.

    Parameters
    ----------
    variant : Variant
    adapter : attnpatch.ImageAdapter
    embeds, partner_embeds : attnpatch.ImageEmbeds
        One row per picture: its reference, and the reference of its other half.
    size : (int, int)
        Height and width of the masks.
    """
    if not variant.patched:
        return []
    options = {"weight": variant.weight, "start": variant.start, "end": variant.end}
    patches: list[Any] = [ap.SelfAttentionGuidance(variant.sag)] if variant.sag else []
    if variant.reduction is not None:
        patches.append(variant.reduction)
    if variant.region == "all":
        return [*patches, ap.ImagePrompt(adapter, embeds, **options)]
    for side, tokens in (("left", embeds), ("right", partner_embeds)):
        if variant.region in (side, "both"):
            patches.append(ap.ImagePrompt(adapter, tokens, mask=half_mask(*size, side), **options))
    return patches
