# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Z-Image: [image; text], each padded; with references [text; references; image; features]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from attnpatch.engine import IMAGE, PADDING, REFERENCE, TEXT, JointTable, Part, Tokens, joined
from attnpatch.hosts.diffusers.transformer.sequence import Sequenced, joint_table

__all__ = ["ZImage"]

_MULTIPLE = 32  # to which each part of a sequence is padded


class ZImage:
    """One kind of block; those that refine text and image apart, before, are left alone."""

    spans = (TEXT, IMAGE, REFERENCE, PADDING)
    text_masks: tuple[str, ...] = ()

    def layer_table(self, model: Any) -> JointTable:
        """Return its layers of joint attention, in forward order."""
        return joint_table(model, {"layers.attention": "layers"})

    def sequence(self, model: Any, arguments: Mapping[str, Any]) -> Sequenced:
        """Return the sequence of a call; see ``Family``.

        Raises
        ------
        ValueError
            Where rows have images of different sizes, or different references.
        """
        latents, texts = arguments["x"], arguments["cap_feats"]
        patch, frames = arguments.get("patch_size", 2), arguments.get("f_patch_size", 1)
        many = isinstance(latents[0], list)
        if many:
            features = arguments.get("siglip_feats") or [None] * len(latents)
            rows = [
                _with_references(*row, patch, frames)
                for row in zip(latents, texts, features, strict=True)
            ]
        else:
            rows = _alone(latents, texts, patch, frames)
        if any(row != rows[0] for row in rows):
            raise ValueError(
                "x: expected rows of the same sizes where patches act, got the parts "
                f"{', '.join(map(str, rows))}"
            )
        tokens = joined(rows[0])
        if not many and len(set(map(len, texts))) > 1:
            lengths = tuple(map(len, texts))
            spans = tuple(
                replace(span, rows=lengths) if span.name == TEXT else span for span in tokens.spans
            )
            tokens = Tokens(spans)
        return Sequenced(
            batch=len(latents),
            attentions=((tokens, tokens),),
            sigma=1 - arguments["t"],
            text=texts,
        )


def _alone(latents: Sequence[Any], texts: Sequence[Any], patch: int, frames: int) -> list[Any]:
    """Return the parts of each row. Shorter texts are padded to the longest one's place."""
    longest = max(map(len, texts))
    return [
        [*_picture(IMAGE, latent, patch, frames), *_padded(TEXT, longest, None)]
        for latent in latents
    ]


def _with_references(
    latents: Sequence[Any], texts: Sequence[Any], features: Any, patch: int, frames: int
) -> list[Part]:
    parts = [part for text in texts for part in _padded(TEXT, len(text), None)]
    for index, latent in enumerate(latents):
        name = IMAGE if index == len(latents) - 1 else REFERENCE
        parts += (
            [(PADDING, _MULTIPLE, None)]
            if latent is None
            else (_picture(name, latent, patch, frames))
        )
    for feature in features or ():
        count = _MULTIPLE if feature is None else feature.shape[0] * feature.shape[1]
        parts.append((PADDING, count + -count % _MULTIPLE, None))
    return parts


def _picture(name: str, latent: Any, patch: int, frames: int) -> list[Part]:
    _, depth, height, width = latent.shape
    if depth != frames:
        raise ValueError(f"x: expected pictures of one frame where patches act, got {depth}")
    grid = height // patch, width // patch
    return _padded(name, grid[0] * grid[1], grid)


def _padded(name: str, count: int, grid: tuple[int, int] | None) -> list[Part]:
    return [(name, count, grid), (PADDING, -count % _MULTIPLE, None)]
