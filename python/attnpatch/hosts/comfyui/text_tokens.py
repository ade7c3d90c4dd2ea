# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Which tokens of a model's text the words of a prompt are, by the host's own tokenizers.

A part of the prompt is given a weight, and the tokens that have it are its own. Tokenizers of
language models know no weights: there the part is exchanged for a sign that no prompt has, and the
tokens that change are its own. So templates, several encoders and padding need not be known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attnpatch.patches.key_gain.prompt_weights import Weighted

__all__ = ["Conditioning", "encode_parts"]

Conditioning = list[Any]
"""The host's: a list of a text's embeddings (1, tokens, channels) and what goes with them."""

_SIGN = "\u2603"
_WEIGHT = 1.5
_ONE_AFTER_ANOTHER = "t5xxl"
"""The encoder whose tokens come last where the host joins those of several."""


def encode_parts(
    clip: Any, text: str, parts: Sequence[Weighted]
) -> tuple[Conditioning, list[list[int]]]:
    """Encode a prompt, and find the tokens of its parts.

    Parameters
    ----------
    clip
        The host's ``CLIP``.
    text
        The prompt, without weights.
    parts
        Parts of it.

    Returns
    -------
    tuple
        The conditioning; and for each part its tokens in that, in order.

    Raises
    ------
    ValueError
        Where a part has no tokens of its own in what the encoder gives.
    """
    tokens = _tokenize(clip, text)
    conditioning = clip.encode_from_tokens_scheduled(tokens)
    embeddings, more = conditioning[0]
    found = []
    for part in parts:
        weighted = _tokenize(clip, text, part)
        signed = _tokenize(clip, text[: part.start] + _SIGN + text[part.stop :])
        places: set[int] = set()
        for name in _encoders(tokens):
            # Anima's model itself makes the text, of these tokens; others drop a template's head.
            side_by_side = len(tokens) > 1 and name != _ONE_AFTER_ANOTHER
            shift = 0
            if "t5xxl_ids" not in more and not side_by_side:
                shift = embeddings.shape[1] - sum(map(len, tokens[name]))
            own = _weighted(tokens[name], weighted[name])
            if own is None:
                own = _changed(tokens[name], signed[name])
            places |= {place + shift for place in own if place + shift >= 0}
        if not places:
            raise ValueError(
                f"prompt: expected tokens of {text[part.start : part.stop]!r} in what the text "
                "encoder gives, got none"
            )
        found.append(sorted(places))
    return conditioning, found


def _tokenize(
    clip: Any, text: str, part: Weighted | None = None
) -> Mapping[str, list[list[tuple[Any, ...]]]]:
    """Return the tokens of a text by encoder, in chunks, perhaps with a weight on a part of it."""
    if part is None:
        written = _escaped(text)
    else:
        before, own, after = text[: part.start], text[part.start : part.stop], text[part.stop :]
        written = f"{_escaped(before)}({_escaped(own)}:{_WEIGHT}){_escaped(after)}"
    found = clip.tokenize(written)
    return found if isinstance(found, Mapping) else {"": found}


def _escaped(text: str) -> str:
    """Return a text whose parentheses are characters for the host."""
    return text.replace("(", "\\(").replace(")", "\\)")


def _encoders(tokens: Mapping[str, Any]) -> list[str]:
    """Return the encoders whose tokens the model is given, not pooled alone."""
    names = [name for name in tokens if tokens[name]]
    if _ONE_AFTER_ANOTHER in names and "g" not in names:
        return [_ONE_AFTER_ANOTHER]
    return names


def _weighted(
    chunks: Sequence[Sequence[tuple[Any, ...]]], weighted: Sequence[Sequence[tuple[Any, ...]]]
) -> list[int] | None:
    """Return the places of tokens that have the weight; None: the tokenizer knows no weights.

    Or the tokens themselves are others with a weight among them.
    """
    plain = [entry for chunk in chunks for entry in chunk]
    marked = [entry for chunk in weighted for entry in chunk]
    if len(plain) != len(marked) or not all(map(_same, plain, marked)):
        return None
    return [place for place, entry in enumerate(marked) if entry[1] != 1.0] or None


def _changed(
    chunks: Sequence[Sequence[tuple[Any, ...]]], signed: Sequence[Sequence[tuple[Any, ...]]]
) -> range:
    """Return the places of tokens that are others in the text with the sign."""
    if len(chunks) != 1 or len(signed) != 1:
        raise ValueError(
            f"prompt: expected a text of one chunk of tokens, got {len(chunks)}; use fewer words"
        )
    own, other = list(chunks[0]), list(signed[0])
    pad = min(_ending(own), _ending(other))
    if len(own) == len(other) and pad > 1 and _same(own[-1], other[-1]):
        own, other = own[: len(own) + 1 - _ending(own)], other[: len(other) + 1 - _ending(other)]
    shared = min(len(own), len(other))
    first = next((i for i in range(shared) if not _same(own[i], other[i])), shared)
    rest = shared - first
    last = next((i for i in range(rest) if not _same(own[-1 - i], other[-1 - i])), rest)
    return range(first, len(own) - last)


def _ending(chunk: Sequence[tuple[Any, ...]]) -> int:
    """Return how many tokens at the end are one and the same: padding."""
    same = 1
    while same < len(chunk) and _same(chunk[-1 - same], chunk[-1]):
        same += 1
    return same


def _same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Whether two entries hold one token: a number, or the very same embedding."""
    mine, its = one[0], other[0]
    return mine is its or (isinstance(mine, int) and isinstance(its, int) and mine == its)
