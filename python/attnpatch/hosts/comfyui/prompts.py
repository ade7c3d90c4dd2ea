# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Prompts of the host as patches: words with weights, regions, and texts as its models see them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attnpatch.hosts.comfyui.host import patch_model
from attnpatch.hosts.comfyui.text_tokens import Conditioning, encode_parts
from attnpatch.hosts.comfyui.transformer.families import family_of
from attnpatch.hosts.prompts import read_words, word_gains
from attnpatch.patches import KeyGain, TextKeys

__all__ = ["add_region", "text_of", "weigh_words"]


def weigh_words(
    model: Any, clip: Any, prompt: str, *, start: float = 0.0, end: float = 1.0
) -> tuple[Any, Conditioning]:
    """Encode a prompt with weights, which act in attention: "a (red:1.4) hat, (blur:-0.5)".

    Parameters
    ----------
    model, clip
        The host's ``ModelPatcher`` and ``CLIP``.
    prompt
        As ``attnpatch.word_weights`` takes it.
    start, end
        The part of sampling in which the weights act.

    Returns
    -------
    tuple
        The patched clone, and the conditioning of the prompt without weights.
    """
    text, parts = read_words(prompt)
    conditioning, tokens = encode_parts(clip, text, parts)
    first = _padding(model, conditioning[0][0].shape[1], conditioning[0][1])
    own = [[first + token for token in these] for these in tokens]
    patches = word_gains(parts, own, start, end)
    return (patch_model(model, patches) if patches else model), conditioning


def add_region(
    model: Any,
    conditioning: Conditioning,
    region: Conditioning,
    mask: Tensor,
    *,
    strength: float = 1.0,
    start: float = 0.0,
    end: float = 1.0,
) -> tuple[Any, Conditioning]:
    """Join a text that is seen in its own region alone to one that is seen everywhere.

    Parameters
    ----------
    model
        The host's ``ModelPatcher``.
    conditioning, region
        The text so far, and that of the region, of one entry each.
    mask
        (H, W) or (pictures, H, W), 0 to 1: where the region is.
    strength
        The gain of the region's text there.
    start, end
        The part of sampling in which the region holds.

    Returns
    -------
    tuple
        The patched clone, and the joined conditioning.
    """
    text, more = _entry("conditioning", conditioning)
    base = _own(model, text, more)
    added = _own(model, *_entry("region", region))
    if base.shape[0] != added.shape[0] or base.shape[2:] != added.shape[2:]:
        raise ValueError(
            f"region: expected a text of {base.shape[2]} channels, as that beside it has, got one "
            f"of shape {tuple(added.shape)} beside {tuple(base.shape)}"
        )
    missing = _padding(model, base.shape[1], more)
    base = F.pad(base, (0, 0, missing, 0))
    keys = TextKeys(tuple(range(base.shape[1], base.shape[1] + added.shape[1])))
    patch = KeyGain(keys, strength, outside=0.0, mask=mask, start=start, end=end)
    left_out = ("attention_mask", "t5xxl_ids", "t5xxl_weights")
    joined = torch.cat([base, added.to(base)], dim=1)
    kept = {name: value for name, value in more.items() if name not in left_out}
    family = family_of(model.model.diffusion_model)
    if family is not None and family.follows_text and "attention_mask" in more:
        # Lumina 2 counts its text by the mask.
        kept["attention_mask"] = torch.ones(joined.shape[:2], dtype=torch.int64)
    return patch_model(model, [patch]), [[joined, kept]]


def text_of(model: Any, conditioning: Conditioning, name: str) -> tuple[Tensor, Tensor | None]:
    """Return the text of a conditioning of one entry as the model sees it, and its mask.

    Raises
    ------
    ValueError
        Where there are more entries, or none.
    """
    text, more = _entry(name, conditioning)
    if "t5xxl_ids" in more:
        return _adapted(model, text, more), None
    return text, more.get("attention_mask")


def _entry(name: str, conditioning: Sequence[Any]) -> tuple[Tensor, dict[str, Any]]:
    if len(conditioning) != 1:
        raise ValueError(
            f"{name}: expected one conditioning, got {len(conditioning)}; give that of one text, "
            "not combined with others"
        )
    text, more = conditioning[0]
    return text, more


def _own(model: Any, text: Tensor, more: dict[str, Any]) -> Tensor:
    """Return a text as the model sees it, without tokens that its mask takes out."""
    if "t5xxl_ids" in more:
        return _adapted(model, text, more)
    mask = more.get("attention_mask")
    if mask is None:
        return text
    return text[:, mask[0].bool().to(text.device)]


def _padding(model: Any, tokens: int, more: dict[str, Any]) -> int:
    """Return how many tokens the host puts in front of a text of so many."""
    network = model.model.diffusion_model
    family = family_of(network)
    if family is None or "t5xxl_ids" in more:
        return 0
    return max(0, family.least_text(network) - tokens)


def _adapted(model: Any, text: Tensor, more: dict[str, Any]) -> Tensor:
    """Return the text that a model makes of its encoder's and of token ids (Anima)."""
    management = sys.modules["comfy.model_management"]
    management.load_models_gpu([model])
    with torch.inference_mode():  # else the host leaves it to each call
        conds = model.model.extra_conds(
            cross_attn=text,
            t5xxl_ids=more["t5xxl_ids"],
            t5xxl_weights=more.get("t5xxl_weights"),
            device=model.load_device,
        )
    return conds["c_crossattn"].cond.to(text.device)
