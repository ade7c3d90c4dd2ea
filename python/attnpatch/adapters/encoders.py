# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What adapters look at: the encoders in use, their sizes, and words for a wrong one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Encoder:
    """A CLIP vision tower: what it gives, and where it is published.

    Parameters
    ----------
    name : str
        What people call it.
    pooled, hidden : int
        Sizes of its pooled embedding and of its hidden states (length, hidden).
    length : int
        Tokens of its hidden states.
    repository, subfolder : str
        Of the Hugging Face hub, for ``CLIPVisionModelWithProjection.from_pretrained``.
    """

    name: str
    pooled: int
    hidden: int
    length: int
    repository: str
    subfolder: str = ""


ENCODERS = (
    Encoder("CLIP ViT-H/14", 1024, 1280, 257, "h94/IP-Adapter", "models/image_encoder"),
    Encoder("CLIP ViT-bigG/14", 1280, 1664, 257, "h94/IP-Adapter", "sdxl_models/image_encoder"),
    Encoder("CLIP ViT-L/14", 768, 1024, 257, "openai/clip-vit-large-patch14"),
    Encoder("CLIP ViT-L/14-336", 768, 1024, 577, "openai/clip-vit-large-patch14-336"),
)
FACE_SIZE = 512  # values of an ArcFace embedding (insightface's antelopev2 and buffalo_l)


@dataclass(frozen=True)
class Features:
    """What one input of an adapter must be.

    Parameters
    ----------
    size : int
        Values of one feature.
    form : {"pooled", "hidden", "face"}
        A picture's pooled CLIP embedding (P, size), the second-to-last hidden state of the CLIP
        vision tower (P, L, size), or a face embedding (P, size).
    face : {"", "normalised", "raw"}
        Which face embedding is meant.
    """

    size: int
    form: str
    face: str = ""

    @property
    def fitting(self) -> str:
        """Names of the encoders of that size, or an empty string."""
        if self.form == "face":
            return "ArcFace (antelopev2 or buffalo_l)" if self.size == FACE_SIZE else ""
        return " or ".join(encoder.name for encoder in self.encoders)

    @property
    def encoders(self) -> tuple[Encoder, ...]:
        """Known encoders that give such features; none for faces."""
        if self.form == "face":
            return ()
        name = "hidden" if self.form == "hidden" else "pooled"
        return tuple(encoder for encoder in ENCODERS if getattr(encoder, name) == self.size)

    def __str__(self) -> str:
        if self.form == "face":
            what = f"{self.face} face embeddings (P, {self.size})".strip()
        elif self.form == "hidden":
            what = f"CLIP hidden states (P, L, {self.size}), the second to last of the tower"
        else:
            what = f"CLIP image embeds (P, {self.size})"
        return f"{what}: {self.fitting}" if self.fitting else what


def name_features(shape: Sequence[int]) -> str:
    """Say what features of that shape probably are, or an empty string.

    Parameters
    ----------
    shape : sequence of int
        (P, size) or (P, L, size).
    """
    size = shape[-1] if shape else 0
    if len(shape) == 3 and shape[1] > 1:
        encoders = [e.name for e in ENCODERS if (e.length, e.hidden) == (shape[1], size)]
        encoders = encoders or [e.name for e in ENCODERS if e.hidden == size]
        return f"hidden states of {' or '.join(encoders)}" if encoders else ""
    if size == FACE_SIZE:
        return "a face embedding"
    encoders = [e.name for e in ENCODERS if e.pooled == size]
    if encoders:
        return f"image embeds of {' or '.join(encoders)}"
    return ""


def check_features(name: str, shape: Sequence[int], takes: Features, kind: str) -> None:
    """Raise unless features of `shape` are what an adapter takes.

    Parameters
    ----------
    name : str
        The argument, for the message.
    shape : sequence of int
        The shape given.
    takes : Features
        What the adapter takes.
    kind : str
        The adapter's kind, for the message.

    Raises
    ------
    ValueError
        Both sizes, what the given features probably are, and what would fit.
    """
    dimensions = {3} if takes.form == "hidden" else {2}
    if kind in ("instantid", "portrait_unnorm"):
        dimensions = {2, 3}
    if len(shape) in dimensions and shape[-1] == takes.size and 0 not in shape:
        return
    got = f"got {tuple(shape)}"
    guess = name_features(shape)
    if guess:
        got += f", which looks like {guess}"
    advice = ""
    if takes.form == "hidden" and len(shape) == 2 and guess:
        advice = " Pass the tower's hidden_states[-2], not its pooled output."
    elif takes.form == "pooled" and len(shape) == 3 and guess:
        advice = " Pass the tower's image_embeds, not its hidden states."
    elif takes.fitting and guess:
        advice = (
            f" Encode with {takes.fitting}, or use an adapter made for {guess.split(' of ')[-1]}."
        )
    raise ValueError(f"{name}: this {kind} adapter takes {takes}, {got}.{advice}")
