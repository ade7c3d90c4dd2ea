# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Image tokens: the value that an adapter makes of pictures, and its files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import safetensors
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from attnpatch.adapters.inputs import is_finite

if TYPE_CHECKING:
    from attnpatch.adapters.adapter import ImageAdapter

FORMAT = "attnpatch.image_embeds"
FEATURES_FORMAT = "attnpatch.features"
VERSION = "1"


@dataclass(frozen=True, eq=False)
class ImageEmbeds:
    """Image tokens, ready for the keys and values of an adapter.

    Parameters
    ----------
    cond : torch.Tensor
        (P, T, context): one row of tokens for each picture to be made, or one row for all.
    uncond : torch.Tensor
        (1, T, context) or (P, T, context): their counterpart for the negative prompt.
    metadata : mapping of str to str
        Where they come from: kind, family, tokens, digest of the adapter, and so on.

    Raises
    ------
    ValueError
        Shapes that do not go together.
    """

    cond: torch.Tensor
    uncond: torch.Tensor
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("cond", "uncond"):
            value = getattr(self, name)
            if not isinstance(value, torch.Tensor):
                raise TypeError(f"{name}: expected a tensor; given {type(value).__name__}")
            if value.dim() != 3 or 0 in value.shape or not value.is_floating_point():
                raise ValueError(
                    f"{name}: expected floating-point tokens (P, T, context); "
                    f"given {tuple(value.shape)} {value.dtype}"
                )
        cond, uncond = self.cond.shape, self.uncond.shape
        if cond[1:] != uncond[1:] or uncond[0] not in (1, cond[0]):
            raise ValueError(
                f"uncond: expected (1 or {cond[0]}, {cond[1]}, {cond[2]}) to go with cond "
                f"{tuple(cond)}; given {tuple(uncond)}"
            )
        frozen = MappingProxyType({str(k): str(v) for k, v in dict(self.metadata).items()})
        object.__setattr__(self, "metadata", frozen)

    @property
    def pictures(self) -> int:
        """Rows of `cond`."""
        return self.cond.shape[0]

    @property
    def tokens(self) -> int:
        """Tokens in a row."""
        return self.cond.shape[1]

    @property
    def context_dim(self) -> int:
        """Values of a token."""
        return self.cond.shape[2]

    def to(
        self,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> ImageEmbeds:
        """Give the same tokens on another device or in another dtype."""
        return ImageEmbeds(
            self.cond.to(device=device, dtype=dtype),
            self.uncond.to(device=device, dtype=dtype),
            self.metadata,
        )

    def through(
        self, weight: torch.Tensor, bias: torch.Tensor | None = None, *, scale: float = 1.0
    ) -> ImageEmbeds:
        """Give these tokens after a linear map: the one that Kolors' UNet has for its text.

        Parameters
        ----------
        weight : torch.Tensor
            (context, token), as a linear layer has it: the UNet's ``encoder_hid_proj.weight``, or
            ``text_encoder_hid_proj.weight`` while diffusers has an IP-Adapter loaded.
        bias : torch.Tensor, optional
            (context,).
        scale : float
            Of what comes out, bias and all.

        Returns
        -------
        ImageEmbeds
            Tokens of `context` values, computed in fp32 or better, in the dtype and on the device
            of these.

        Raises
        ------
        ValueError
            Sizes that do not fit the tokens.
        """
        if weight.dim() != 2 or weight.shape[1] != self.context_dim:
            raise ValueError(
                f"weight: expected (context, {self.context_dim}) for tokens of {self.context_dim} "
                f"values; given {tuple(weight.shape)}"
            )
        if bias is not None and bias.shape != weight.shape[:1]:
            raise ValueError(f"bias: expected ({len(weight)},); given {tuple(bias.shape)}")

        def project(tokens: torch.Tensor) -> torch.Tensor:
            dtype = torch.promote_types(tokens.dtype, torch.float32)
            matrix = weight.to(tokens.device, dtype)
            offset = None if bias is None else bias.to(tokens.device, dtype)
            return (scale * F.linear(tokens.to(dtype), matrix, offset)).to(tokens.dtype)

        metadata = {**self.metadata, "context_dim": str(len(weight))}
        return ImageEmbeds(project(self.cond), project(self.uncond), metadata)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file that `load_embeds` reads.

        Parameters
        ----------
        path : path
            Where to; the suffix should be `.safetensors`.
        """
        metadata = {**self.metadata, "format": FORMAT, "format_version": VERSION}
        tensors = {"cond": self.cond, "uncond": self.uncond}
        save_file(
            {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()},
            path,
            metadata,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ImageEmbeds):
            return NotImplemented
        if self is other:
            return True
        return self.metadata == other.metadata and all(
            a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
            for a, b in ((self.cond, other.cond), (self.uncond, other.uncond))
        )

    def __hash__(self) -> int:
        return hash((self.cond.shape, self.uncond.shape, frozenset(self.metadata.items())))

    def __deepcopy__(self, memo: object) -> ImageEmbeds:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return ImageEmbeds, (self.cond.detach(), self.uncond.detach(), dict(self.metadata))

    def __repr__(self) -> str:
        kind = self.metadata.get("kind", "unknown adapter")
        return (
            f"ImageEmbeds({kind}: {self.pictures} x {self.tokens} tokens of {self.context_dim}, "
            f"{str(self.cond.dtype).removeprefix('torch.')} on {self.cond.device})"
        )


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
    from attnpatch.adapters.files import read_file

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
    from attnpatch.adapters.files import read_file

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
