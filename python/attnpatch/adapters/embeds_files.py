# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Files of image tokens, and of the encoders' features that these are made of."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file

from attnpatch.adapters.adapter import ImageAdapter
from attnpatch.adapters.embeds import FORMAT, VERSION, ImageEmbeds
from attnpatch.adapters.files import read_file
from attnpatch.adapters.inputs import is_finite

FEATURES_FORMAT = "attnpatch.features"


def load_embeds(
    path: str | os.PathLike[str],
    adapter: ImageAdapter | None = None,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> ImageEmbeds:
    """Read image tokens from a file.

    Parameters
    ----------
    path : path
        A file of `ImageEmbeds.save`, of `save_features`, or an `.ipadpt` file of other tools. The
        last two hold the encoder's features, not tokens, so that they need the `adapter`: either
        one tensor (P, size) or (P, L, size); or a list of one tensor per adapter with a dimension
        for the images, of which the first half of the rows, if their number is even, are the
        negatives.
    adapter : ImageAdapter, optional
        For a file of ours: the adapter that must have made it. For `.ipadpt`: the one to use.
    device, dtype : optional
        Where to put the tokens, and as what.

    Raises
    ------
    ValueError
        Not such a file, one that holds code, tokens of another adapter, or values that are not
        finite.
    """
    path = Path(path)
    content = read_file(path)
    if not isinstance(content, Mapping) or set(content) != {"cond", "uncond"}:
        if adapter is None:
            raise ValueError(
                f"{path.name}: no image tokens of ours. If it holds an encoder's features "
                "(.ipadpt), give the adapter that is to project them"
            )
        image, negative = _find_features(path.name, content)
        _check_finite(path.name, {"image": image, "negative": negative})
        return adapter.get_image_embeds(image, negative).to(device, dtype)
    metadata = read_metadata(path)
    if metadata.pop("format", "") != FORMAT:
        raise ValueError(f"{path.name}: its metadata do not say {FORMAT}")
    if (version := metadata.pop("format_version", "")) != VERSION:
        raise ValueError(f"{path.name}: format version {version!r}; this release reads {VERSION}")
    embeds = ImageEmbeds(content["cond"], content["uncond"], metadata).to(device, dtype)
    _check_finite(path.name, {"cond": embeds.cond, "uncond": embeds.uncond})
    digest = metadata.get("digest")
    if adapter is not None and digest and digest != adapter.digest:
        raise ValueError(
            f"{path.name}: made by another adapter ({metadata.get('kind')}, {digest[:12]}) than "
            f"the one given ({adapter.kind}, {adapter.digest[:12]})"
        )
    return embeds


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a file of image tokens; of any other file none."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
    except safetensors.SafetensorError:
        return {}
    return metadata if metadata.get("format") == FORMAT else {}


def save_features(path: str | os.PathLike[str], features: torch.Tensor) -> None:
    """Write an encoder's features to a safetensors file that `load_features` reads.

    Parameters
    ----------
    path : path
        Where to; the suffix should be `.safetensors`.
    features : torch.Tensor
        (P, size) or (P, L, size).
    """
    metadata = {"format": FEATURES_FORMAT, "format_version": VERSION}
    save_file({"features": features.detach().cpu().contiguous().clone()}, path, metadata)


def load_features(
    path: str | os.PathLike[str],
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Read an encoder's features from a file of `save_features`, or from an `.ipadpt` file.

    Returns
    -------
    image, negative
        (P, size) or (P, L, size); negative is None where the file has none.

    Raises
    ------
    ValueError
        Not such a file, one that holds code, or values that are not finite.
    """
    path = Path(path)
    image, negative = _find_features(path.name, read_file(path))
    _check_finite(path.name, {"image": image, "negative": negative})
    return image, negative


def _check_finite(name: str, tensors: Mapping[str, torch.Tensor | None]) -> None:
    """Raise ValueError with the names of the file and of the first tensor that is not finite."""
    for part, tensor in tensors.items():
        if tensor is not None and tensor.is_floating_point() and not is_finite(tensor):
            raise ValueError(f"{name}: {part}: expected finite values, got NaN or infinity")


def _find_features(name: str, content: object) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Find the features in a file's content, and their negatives."""
    if isinstance(content, Mapping) and set(content) == {"features"}:
        content = content["features"]
    if isinstance(content, torch.Tensor):
        return content, None
    if isinstance(content, list | tuple) and len(content) == 1:
        features = content[0]
        if isinstance(features, torch.Tensor) and features.dim() in (3, 4):
            rows = features.shape[0]
            negative, positive = features.chunk(2) if rows % 2 == 0 else (features[:0], features)
            flat = positive.flatten(0, 1)
            return flat, (negative.flatten(0, 1) if len(negative) else None)
    raise ValueError(
        f"{name}: expected a tensor, or a list of one tensor (2P, images, ...); found "
        f"{type(content).__name__}"
    )
