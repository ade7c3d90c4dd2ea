# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""From pictures to the features that an adapter takes, by the encoder that the user has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy
import torch
from torch import Tensor

from attnpatch.adapters.encoders import Features
from attnpatch.adapters.inputs import FLOATS
from attnpatch.pictures import WHITE, Colour, Pictures
from attnpatch.vision import Crop, clip_preprocess

__all__ = [
    "NEGATIVES",
    "Crop",
    "Negative",
    "PictureEncoder",
    "check_negative",
    "check_takes_pictures",
    "encode_nothing",
    "encode_pictures",
    "preprocess",
]

PictureEncoder = Callable[..., Any]
"""(B, 3, S, S) to an object with ``image_embeds`` and ``hidden_states``: a CLIP vision model."""
Negative = Literal["zeros", "black"]
NEGATIVES: tuple[Negative, ...] = ("zeros", "black")
_USUAL_SIZE = 224


def preprocess(
    pictures: Pictures,
    size: int = _USUAL_SIZE,
    *,
    crop: Crop = "center",
    background: Colour = WHITE,
) -> Tensor:
    """Make pictures what a CLIP vision tower takes, as a tensor.

    Parameters
    ----------
    pictures : picture, or list or tuple of pictures
        Of any kind; as for `attnpatch.vision.clip_preprocess`, which does it and says the errors.
    size : int
        Side of the result in pixels.
    crop : {"center", "top", "bottom", "left", "right", "pad"}
        Which square to keep.
    background : (int, int, int)
        What lies behind transparent pixels.

    Returns
    -------
    torch.Tensor
        float32 (B, 3, size, size).
    """
    return torch.from_numpy(clip_preprocess(pictures, size, crop=crop, background=background))


def encode_pictures(
    pictures: Pictures,
    encoder: PictureEncoder,
    form: str,
    *,
    crop: Crop = "center",
    background: Colour = WHITE,
) -> Tensor:
    """Encode pictures, without gradients, on the encoder's device and in its dtype.

    Parameters
    ----------
    pictures, crop, background
        As for `preprocess`; the size is the encoder's.
    encoder : callable
        A CLIP vision model of transformers, or a function of (B, 3, 224, 224).
    form : {"pooled", "hidden"}
        Its ``image_embeds``, or its ``hidden_states[-2]``.

    Returns
    -------
    torch.Tensor
        (B, size), or (B, L, size).

    Raises
    ------
    TypeError
        The encoder is none, or its output lacks what is wanted.
    """
    size = _size_of(encoder)
    return _run(encoder, preprocess(pictures, size, crop=crop, background=background), form)


def encode_nothing(encoder: PictureEncoder, form: str, negative: Negative = "zeros") -> Tensor:
    """Encode the picture that stands for none.

    Parameters
    ----------
    encoder, form
        As for `encode_pictures`.
    negative : {"zeros", "black"}
        Zeros after normalisation (CLIP's mean colour), with which adapters are trained and which
        diffusers takes; or a black picture before it, which ComfyUI's node packs take.

    Returns
    -------
    torch.Tensor
        One row.

    Raises
    ------
    ValueError
        Another `negative`.
    """
    check_negative(negative)
    size = _size_of(encoder)
    if negative == "zeros":
        return _run(encoder, torch.zeros(1, 3, size, size, device="cpu"), form)
    return _run(encoder, preprocess(numpy.zeros((size, size, 3), numpy.uint8), size), form)


def check_negative(negative: str) -> None:
    """Raise ValueError for a word that names no picture which stands for none."""
    if negative not in NEGATIVES:
        raise ValueError(f"negative: expected {' or '.join(NEGATIVES)}, got {negative!r}")


def check_takes_pictures(takes: Sequence[Features], kind: str, faces: object) -> None:
    """Raise ValueError unless pictures, with faces or without, are what an adapter takes."""
    forms = [features.form for features in takes]
    if forms == ["face"]:
        raise ValueError(
            f"adapter: expected one that takes pictures, got {kind}, which takes faces: use "
            "attnpatch.get_identity_embeds(adapter, faces) or attnpatch.Identity"
        )
    if "face" in forms and faces is None:
        raise ValueError(
            f"faces: expected faces or their embeddings (P, {takes[0].size}), which {kind} takes "
            "beside pictures, got None"
        )
    if "face" not in forms and faces is not None:
        raise ValueError(
            f"faces: expected None, since {kind} takes pictures alone, got {type(faces).__name__}"
        )


def _size_of(encoder: PictureEncoder) -> int:
    return getattr(getattr(encoder, "config", None), "image_size", _USUAL_SIZE)


def _run(encoder: PictureEncoder, pixels: Tensor, form: str) -> Tensor:
    if not callable(encoder):
        raise TypeError(
            "encoder: expected a CLIPVisionModelWithProjection of transformers or a function of "
            f"(B, 3, S, S), got {type(encoder).__name__}"
        )
    device, dtype = _place_of(encoder)
    # Models of transformers keep hidden states only for those who ask.
    asked = {"output_hidden_states": True} if form == "hidden" and _is_model(encoder) else {}
    with torch.no_grad():
        output = encoder(pixels.to(device, dtype), **asked)
    name = "hidden_states" if form == "hidden" else "image_embeds"
    features = getattr(output, name, None)
    if features is None:
        raise TypeError(
            f"encoder: expected an output with {name}, as CLIPVisionModelWithProjection gives, got "
            f"{type(output).__name__} of {type(encoder).__name__}"
        )
    return features[-2] if form == "hidden" else features


def _is_model(encoder: PictureEncoder) -> bool:
    return hasattr(getattr(encoder, "config", None), "image_size")


def _place_of(encoder: PictureEncoder) -> tuple[torch.device | None, torch.dtype]:
    """Device and dtype of an encoder's input."""
    if not isinstance(encoder, torch.nn.Module):
        return None, torch.float32
    parameters = list(encoder.parameters())
    dtype = next((p.dtype for p in parameters if p.dtype in FLOATS), torch.float32)
    if not parameters:
        return None, dtype
    # Weights that accelerate offloads are elsewhere, or nowhere, until the model runs.
    hooks = [getattr(module, "_hf_hook", None) for module in encoder.modules()]
    devices = [getattr(hook, "execution_device", None) for hook in hooks]
    return next((d for d in devices if d is not None), parameters[0].device), dtype
