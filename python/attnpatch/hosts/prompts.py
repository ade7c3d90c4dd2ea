# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Weights of words, and prompts of regions, as patches: one call each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attnpatch.engine import PatchStack
from attnpatch.patches import KeyGain, ReferenceKeys, TextKeys
from attnpatch.patches.key_gain import read_weights
from attnpatch.patches.key_gain.prompt_weights import Weighted, WeightedPrompt

__all__ = [
    "PromptPatches",
    "read_words",
    "reference_strength",
    "regional_prompts",
    "word_gains",
    "word_weights",
]


class PromptPatches(NamedTuple):
    """What to give a pipeline, and what to patch it with."""

    arguments: dict[str, Any]
    """Arguments of the pipeline's call: its prompt, or the embeddings of that."""
    patches: PatchStack
    """What acts on the tokens of it."""


def reference_strength(
    strength: float,
    reference: int | None = 0,
    *,
    part: Any = None,
    mask: Any = None,
    start: float = 0.0,
    end: float = 1.0,
    **options: Any,
) -> KeyGain:
    """Return a patch that makes a model look more, or less, at a reference picture it is given.

    For models that are given pictures in their sequence: Flux Kontext, Flux.2 and Klein, Krea 2,
    Qwen-Image-Edit. Attention of the image's tokens to those of the reference is multiplied.

    Parameters
    ----------
    strength : float
        0 hides the reference, 1 leaves all as it is; 0.5 to 2 is a useful range.
    reference : int or None
        Which of several, from 0; None: all.
    part : array or Tensor or None
        Which part of the reference, (H, W); None: all of it.
    mask : array or Tensor or None
        Where in the image, (H, W) or (samples, H, W), 0 to 1; None: everywhere.
    start, end : float
        The part of sampling in which it is active, 0 to 1.
    **options
        Others of ``KeyGain``.

    Examples
    --------
    >>> reference_strength(1.5, end=0.6)
    KeyGain(ReferenceKeys(0), 1.5, end=0.6)
    """
    keys = ReferenceKeys(reference, part)
    return KeyGain(keys, strength, mask=mask, start=start, end=end, **options)


def word_weights(
    pipeline: Any,
    prompt: str,
    *,
    start: float = 0.0,
    end: float = 1.0,
    max_sequence_length: int | None = None,
    **options: Any,
) -> PromptPatches:
    """Read the weights of words in a prompt: attention to a word's tokens is multiplied by its own.

    It acts in attention, so that it works with every text encoder, language models as well. A
    weight of 0 takes a word away; one below 0 turns what it gives around, and pushes away from it.

    Parameters
    ----------
    pipeline
        A pipeline of diffusers. Its text encoders run once, to tell which tokens are whose.
    prompt : str
        Such as "a (red:1.4) hat, (blur:-0.5)".
    start, end : float
        The part of sampling in which the weights act, 0 to 1.
    max_sequence_length : int or None
        As of the pipeline's call, which is then given it too. None: what the pipeline takes by
        itself, and names in the arguments where the places of words depend on it.
    **options
        Others of ``KeyGain``.

    Returns
    -------
    PromptPatches
        The prompt without weights, what else keeps its words where they are, and the patches.

    Raises
    ------
    TypeError, ValueError
        For prompts that can not be read, and pipelines whose tokens do not tell.

    Examples
    --------
    >>> words = word_weights(pipeline, "a (red:1.4) hat, (blur:-0.5)")
    >>> with attach(pipeline, words.patches):
    ...     image = pipeline(**words.arguments).images[0]
    """
    text, parts = read_words(prompt)
    arguments: dict[str, Any] = {"prompt": text}
    if max_sequence_length is not None:
        arguments["max_sequence_length"] = max_sequence_length
    if not parts:
        return PromptPatches(arguments, PatchStack())
    positions = import_module("attnpatch.hosts.diffusers.token_positions")
    tokens = positions.encode_text(pipeline, text, max_sequence_length)
    arguments |= tokens.arguments
    own = [tokens.positions(part.start, part.stop) for part in parts]
    return PromptPatches(arguments, word_gains(parts, own, start, end, **options))


def read_words(prompt: str) -> WeightedPrompt:
    """Read a prompt with weights; its parts begin and end with words.

    Spaces have no weight: tokenizers of language models put one into the token of the word after
    it, which may be another part's.
    """
    text, parts = read_weights(prompt)
    words = []
    for part in parts:
        own = text[part.start : part.stop]
        start = part.start + len(own) - len(own.lstrip())
        if own.strip():
            words.append(Weighted(start, start + len(own.strip()), part.weight))
    return WeightedPrompt(text, tuple(words))


def word_gains(
    parts: Sequence[Weighted],
    tokens: Sequence[Iterable[int]],
    start: float,
    end: float,
    **options: Any,
) -> PatchStack:
    """Return the patches for weights of words.

    Parameters
    ----------
    parts
        Parts of a prompt, in order.
    tokens
        For each of them its tokens of the text. One that is also another part's, as of a word that
        two parts share, has the weight of the first.
    start, end
        The part of sampling in which they act.
    **options
        Others of ``KeyGain``.
    """
    weights: dict[int, float] = {}
    for part, own in zip(parts, tokens, strict=True):
        for token in own:
            weights.setdefault(token, part.weight)
    by_weight: dict[float, list[int]] = {}
    for token, weight in weights.items():
        by_weight.setdefault(weight, []).append(token)
    options = {"rows": "all", "start": start, "end": end, **options}
    return PatchStack(
        KeyGain(
            TextKeys(tuple(these)),
            abs(weight),
            value_gain=-1.0 if weight < 0 else 1.0,
            **options,
        )
        for weight, these in by_weight.items()
    )


def regional_prompts(
    prompts: Sequence[tuple[Tensor, Any]],
    base: Tensor | None = None,
    *,
    strength: float = 1.0,
    start: float = 0.0,
    end: float = 1.0,
) -> tuple[Tensor, PatchStack]:
    """Join the texts of regions, each of which is seen in its own region alone.

    Parameters
    ----------
    prompts : sequence of (Tensor, array)
        For each region its text (1 or batch, tokens, channels), as the pipeline encodes it, and
        its mask (H, W), 0 to 1.
    base : Tensor or None
        A text that is seen everywhere, beside those.
    strength : float
        The gain of a region's text in its region.
    start, end : float
        The part of sampling in which the regions hold; before and after it all texts are seen
        everywhere.

    Returns
    -------
    tuple
        The joined text, for the pipeline's ``prompt_embeds``, and the patches. Pipelines of UNets
        want ``negative_prompt_embeds`` of as many tokens: repeat those, ``uncond.repeat(1, 3, 1)``
        beside three texts.

    Raises
    ------
    ValueError
        Where there are none, or texts do not fit each other.

    Examples
    --------
    >>> text, patches = regional_prompts([(cat, left), (dog, right)], base)
    >>> with attach(pipeline, patches):
    ...     image = pipeline(prompt_embeds=text, **others).images[0]
    """
    if not prompts:
        raise ValueError("prompts: expected at least one region, got none")
    texts = [text for text, _ in prompts]
    if base is not None:
        texts.insert(0, base)
    for text in texts:
        fits = isinstance(text, Tensor) and text.dim() == texts[0].dim() >= 3
        if not fits or text.shape[2:] != texts[0].shape[2:] or len(text) != len(texts[0]):
            raise ValueError(
                "prompts: expected texts (batch, tokens, channels) of the same batch and channels, "
                f"got {[tuple(getattr(text, 'shape', ())) for text in texts]}"
            )
    first = 0 if base is None else base.shape[1]
    patches = []
    for text, mask in prompts:
        keys = TextKeys(range(first, first + text.shape[1]))
        patches.append(KeyGain(keys, strength, outside=0.0, mask=mask, start=start, end=end))
        first += text.shape[1]
    return torch.cat(texts, dim=1), PatchStack(patches)
