# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Image tokens: the value that an adapter makes of pictures, and its files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from attnpatch.shown import Shown

FORMAT = "attnpatch.image_embeds"
VERSION = "1"


@dataclass(frozen=True, eq=False)
class ImageEmbeds(Shown):
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

    _shown_by = "embeds"

    def __post_init__(self) -> None:
        for name in ("cond", "uncond"):
            value = getattr(self, name)
            if not isinstance(value, torch.Tensor):
                raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")
            if value.dim() != 3 or 0 in value.shape or not value.is_floating_point():
                raise ValueError(
                    f"{name}: expected floating-point tokens (P, T, context), "
                    f"got {tuple(value.shape)} {value.dtype}"
                )
        cond, uncond = self.cond.shape, self.uncond.shape
        if cond[1:] != uncond[1:] or uncond[0] not in (1, cond[0]):
            raise ValueError(
                f"uncond: expected (1 or {cond[0]}, {cond[1]}, {cond[2]}) to go with cond "
                f"{tuple(cond)}, got {tuple(uncond)}"
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
                f"values, got {tuple(weight.shape)}"
            )
        if bias is not None and bias.shape != weight.shape[:1]:
            raise ValueError(f"bias: expected ({len(weight)},), got {tuple(bias.shape)}")

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
