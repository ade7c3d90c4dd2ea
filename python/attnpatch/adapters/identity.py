# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Image tokens of faces, for adapters that take face embeddings: InstantID, FaceID."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import Module

from attnpatch.adapters.adapter import ImageAdapter
from attnpatch.adapters.combine import combine_features
from attnpatch.adapters.compat import Compat, check_compat
from attnpatch.adapters.embeds import ImageEmbeds
from attnpatch.adapters.encoders import FACE_SIZE
from attnpatch.adapters.inputs import Faces, as_face_embeddings
from attnpatch.adapters.loading import load_image_adapter
from attnpatch.adapters.tokens import check_combine

__all__ = ["as_identity_adapter", "get_identity_embeds", "noise_like"]

_MODULUS = 1000000007


class InstantIdModel(Protocol):
    """A model as ComfyUI's InstantID pack holds it."""

    image_proj_model: Module
    ip_layers: Any


IdentityModel = ImageAdapter | Mapping[str, Any] | InstantIdModel
"""What ``as_identity_adapter`` reads."""


def as_identity_adapter(model: IdentityModel) -> ImageAdapter:
    """Read an InstantID model in any of the forms in which other code has it.

    Parameters
    ----------
    model
        An `ImageAdapter`; a state dict, nested or flat; or the module of ComfyUI's InstantID pack,
        whose ``image_proj_model`` and ``ip_layers`` hold the weights.

    Raises
    ------
    TypeError, ValueError
        For anything else, or an adapter of another kind.
    """
    if isinstance(model, ImageAdapter):
        return model
    if isinstance(model, Mapping):
        return load_image_adapter(model, kind=_kind(model))
    if hasattr(model, "image_proj_model") and hasattr(getattr(model, "ip_layers", 0), "to_kvs"):
        layers = model.ip_layers.to_kvs.state_dict()  # "1_to_k_ip.weight"
        groups = {
            "image_proj": dict(model.image_proj_model.state_dict()),
            "ip_adapter": {name.replace("_", ".", 1): value for name, value in layers.items()},
        }
        return load_image_adapter(groups, kind="instantid")
    raise TypeError(
        "instantid: expected what an InstantID loader gives, a state dict or an ImageAdapter, "
        f"got {type(model).__name__}"
    )


def _kind(model: Mapping[str, Any]) -> str | None:
    """Say InstantID where shapes leave a choice: a Resampler that takes face embeddings."""
    group = model.get("image_proj")
    tensors = group if isinstance(group, Mapping) else model
    weight = tensors.get("proj_in.weight", tensors.get("image_proj.proj_in.weight"))
    return "instantid" if weight is not None and weight.shape[-1] == FACE_SIZE else None


def noise_like(embedding: Tensor, noise: float) -> Tensor:
    """Make the negative's input: `noise` times uniform numbers, which the embedding itself seeds.

    Torch's CPU generator gives the numbers, by a generator of its own: seed = int(sum of the
    embedding) mod 1000000007. The same embedding always gets the same; the global generator stays
    as it is.

    Parameters
    ----------
    embedding
        Any shape.
    noise
        Their upper end; 0 gives zeros.

    Returns
    -------
    Tensor
        As the embedding.

    Raises
    ------
    ValueError
        For a noise that is negative or not finite.
    """
    if not 0 <= noise < float("inf"):
        raise ValueError(f"noise: expected 0 or more, got {noise}")
    if noise == 0:
        return torch.zeros_like(embedding)
    seed = int(embedding.sum().item()) % _MODULUS
    generator = torch.Generator("cpu").manual_seed(seed)
    uniform = torch.rand(embedding.shape, generator=generator, dtype=embedding.dtype)
    return noise * uniform.to(embedding.device)


def get_identity_embeds(
    model: IdentityModel,
    faces: Faces,
    *,
    noise: float = 0.0,
    combine: str = "average",
    compat: Compat | None = None,
) -> ImageEmbeds:
    """Make image tokens of faces of one person.

    Parameters
    ----------
    model
        The adapter; see `as_identity_adapter`. It takes face embeddings alone (InstantID, FaceID).
    faces
        Faces of `attnpatch.faces`, one or several (None counts as zeros), of which the form is
        taken that the adapter was trained with, raw or normalised; or their embeddings as they are
        to be used, (512,) or (faces, 512), a tensor or an array.
    noise
        Of the negative, 0 to 1; see `noise_like`. Some of it (0.35 is usual) keeps results from
        looking burnt.
    combine
        What several faces become: "average", "norm average" (each divided by its own length first),
        "concat" (the tokens of all), or another mode of `ImageAdapter.get_image_embeds`.
    compat
        "comfyui_instantid" or "comfyui_ipadapter_plus": "norm average" divides each value by its
        length over the faces, as they do.

    Returns
    -------
    ImageEmbeds
        InstantID: cond and uncond (1, 16, 2048).
    """
    adapter = as_identity_adapter(model)
    if len(adapter.takes) != 1 or adapter.takes[0].form != "face":
        raise ValueError(
            f"instantid: expected an adapter for face embeddings alone; this is {adapter.kind}, "
            f"which takes {' and '.join(map(str, adapter.takes))}"
        )
    embeddings = as_face_embeddings(faces, adapter.takes[0])
    check_compat(compat)
    combine = check_combine(combine)
    if len(embeddings) > 1:
        embeddings = combine_features(embeddings, combine, compat=compat)
    embeds = adapter.get_image_embeds(
        embeddings,
        noise_like(embeddings, noise),
        combine="concat" if combine == "concat" else "batch",
    )
    metadata = {**embeds.metadata, "combine": combine, "noise": str(noise)}
    return replace(embeds, metadata=metadata)
