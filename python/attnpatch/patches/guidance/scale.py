# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""How strong guidance is, and what keeps a strong one from burning the picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from attnpatch.engine.cache import upload
from attnpatch.engine.rows import sample_rows
from attnpatch.engine.site import Call
from attnpatch.engine.weights import Weight, number
from attnpatch.ops.blur_and_blend import blur_and_blend

__all__ = ["RESCALE_MODES", "Scale", "read_scale", "rescaled", "scales_of"]

Scale = float | Weight
RESCALE_MODES = ("full", "partial", "snf")


def read_scale(value: Any) -> Scale:
    """Return a scale in its normal form: a number where one says it all.

    Parameters
    ----------
    value
        A number; a tensor of one for each sample, (samples,); or a ``Weight`` of scale, curve
        and samples.

    Raises
    ------
    TypeError, ValueError
        For what is no scale.
    """
    if isinstance(value, Tensor):
        if value.dim() > 1:
            raise ValueError(
                f"scale: expected a tensor of shape (samples,), got {tuple(value.shape)}"
            )
        value = Weight.of(value)
    if not isinstance(value, Weight):
        return number("scale", value)
    if value.layers != "linear":
        raise ValueError(
            "scale: guidance acts on the whole prediction, expected a Weight without layers "
            f"(blocks says where the model is degraded); got {value!r}"
        )
    return value if value.curve or value.samples else value.scale


def scales_of(
    scale: Scale, strength: float | tuple[float, ...], like: Tensor, samples: Sequence[int]
) -> float | Tensor:
    """Return what a term is multiplied by: a number, or one for each sample.

    Parameters
    ----------
    scale
        As ``read_scale`` gives it.
    strength
        What it is now, but for the samples' own; a number, or one for each row or frame.
    like
        The term, (B, C, H, W) or (B, C, frames, H, W).
    samples
        Which sample each row or frame is; empty: 0, 1, 2, ….
    """
    by_sample = scale.samples if isinstance(scale, Weight) else ()
    if not by_sample and not isinstance(strength, tuple):
        return strength
    rows = like.shape[0] * (like.shape[2] if like.dim() == 5 else 1)
    call = Call(latent=(1, 1), batch=rows, samples=tuple(samples) or None)
    factors = [1.0] * rows
    if by_sample:
        factors = [by_sample[sample] for sample in sample_rows(call, len(by_sample), "scale")]
    strengths = strength if isinstance(strength, tuple) else (strength,) * rows
    numbers = [a * b for a, b in zip(strengths, factors, strict=True)]
    scales = upload(torch.tensor(numbers, device="cpu"), like.device)
    return scales.view(like.shape[0], 1, *[-1] * (like.dim() - 4), 1, 1)


def rescaled(
    term: Tensor, cond: Tensor, uncond: Tensor | None, guided: Tensor, rescale: float, mode: str
) -> Tensor:
    """Return a scaled term of guidance as it is to be added, for each sample by itself.

    Parameters
    ----------
    term
        Scale times what guidance gave, (B, C, H, W) or (B, C, frames, H, W).
    cond, uncond
        Predictions of x0, as ``term``; uncond may be None.
    guided
        The result so far.
    rescale
        0: the term as it is. With f the standard deviation of cond over that of guided + term, the
        term is multiplied by rescale · f + 1 − rescale (Lin et al. 2023, arXiv 2305.08891,
        algorithm 2).
    mode
        "full": as said; "partial": cond in the place of guided. "snf": wherever the term is more
        salient than guided − uncond it takes the place of that, and elsewhere it is nothing,
        without any rescaling (saliency-adaptive noise fusion, Wang et al. 2023, arXiv 2311.10329);
        the term as it is where there is no uncond.
    """
    if mode == "snf":
        if uncond is None:
            return term
        other = guided - uncond
        return torch.where(_salience(term) > _salience(other), term - other, 0.0)
    if rescale == 0:
        return term
    whole = (guided if mode == "full" else cond) + term
    over = tuple(range(1, term.dim()))
    spread = whole.std(dim=over, keepdim=True).clamp(min=torch.finfo(term.dtype).tiny)
    factor = cond.std(dim=over, keepdim=True) / spread
    return term * (rescale * factor + (1 - rescale))


def _salience(term: Tensor) -> Tensor:
    """Each pixel's share of its map's magnitude: softmax of |term|, blurred by 3×3 taps."""
    maps = term.abs().float().flatten(0, -3)[:, None]
    everywhere = torch.full((len(maps), 1, 1), 2.0, device=term.device)
    maps = blur_and_blend(maps, everywhere, 1.0, 1.0, 3)
    return maps.flatten(1).softmax(1).view(term.shape)
