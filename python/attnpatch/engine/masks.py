# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Masks: which tokens of a picture an image prompt reaches."""

from __future__ import annotations

from typing import Any

import numpy
import torch
import torch.nn.functional as F

from attnpatch.engine.cache import Cache
from attnpatch.engine.site import Crop

__all__ = [
    "MASK_RESIZE_MODES",
    "MaskPyramid",
    "as_batch",
    "check_joint",
    "resize_mask",
    "to_mask",
]

MASK_RESIZE_MODES = ("bilinear", "area", "bicubic", "nearest")


def to_mask(mask: Any, *, name: str = "mask") -> torch.Tensor:
    """Read a mask of shape (H, W) or (samples, H, W) as a float32 CPU tensor (samples, H, W).

    Floats are factors as they are; True is 1. Whole numbers of 8 and 16 bits without a sign are
    parts of the highest, as pictures have them, unless all are 0 or 1; other whole numbers must be.

    Raises
    ------
    TypeError
        For what is no array.
    ValueError
        For other shapes, empty masks, and values that are not finite or not understood.
    """
    if isinstance(mask, numpy.ndarray):  # torch takes no flipped ones, nor other orders of bytes
        mask = mask.astype(mask.dtype.newbyteorder("="), order="C")
    try:
        raw = torch.as_tensor(mask, device="cpu").detach()
    except (TypeError, RuntimeError, ValueError) as error:
        raise TypeError(
            f"{name}: expected an array or tensor, such as numpy.asarray(picture.convert('L')), "
            f"got {type(mask).__name__}"
        ) from error
    if raw.dim() not in (2, 3) or 0 in raw.shape or raw.is_complex():
        raise ValueError(
            f"{name}: expected shape (H, W) or (samples, H, W), got {tuple(raw.shape)} {raw.dtype}"
        )
    if raw.dim() == 3 and raw.shape[2] in (1, 3, 4) and min(raw.shape[:2]) > 4:
        raise ValueError(
            f"{name}: expected shape (H, W) or (samples, H, W), got {tuple(raw.shape)}, which "
            "has its colours last"
        )
    tensor = raw.to(torch.float32, copy=True) / _highest(raw, name)
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name}: expected finite values")
    return (tensor if tensor.dim() == 3 else tensor[None]).contiguous()


def _highest(mask: torch.Tensor, name: str) -> float:
    """Return the value that stands for a factor of 1."""
    if mask.is_floating_point() or mask.dtype == torch.bool:
        return 1.0
    values = mask.to(torch.int64)
    if int(values.min()) >= 0 and int(values.max()) <= 1:
        return 1.0
    if mask.dtype in (torch.uint8, torch.uint16):
        return float(torch.iinfo(mask.dtype).max)
    raise ValueError(
        f"{name}: expected floats, or whole numbers of 0 and 1 or of 8 or 16 bits without a sign, "
        f"got {mask.dtype} from {int(values.min())} to {int(values.max())}"
    )


def resize_mask(mask: torch.Tensor, grid: tuple[int, int], mode: str = "bilinear") -> torch.Tensor:
    """Resize masks (samples, H, W) to a token grid (h, w); gives (samples, h·w), row by row.

    The modes are those of ``torch.nn.functional.interpolate``, corners not aligned.
    """
    if mode not in MASK_RESIZE_MODES:
        raise ValueError(f"mask_resize: expected one of {MASK_RESIZE_MODES}, got {mode!r}")
    return _resize(mask, grid, mode).flatten(1)


def _resize(mask: torch.Tensor, size: tuple[int, int], mode: str) -> torch.Tensor:
    if tuple(mask.shape[1:]) == tuple(size):
        return mask
    corners = {"align_corners": False} if mode in ("bilinear", "bicubic") else {}
    return F.interpolate(mask[:, None], size=size, mode=mode, **corners)[:, 0]


def crop_mask(
    mask: torch.Tensor, crop: Crop, latent: tuple[int, int], mode: str = "bilinear"
) -> torch.Tensor:
    """Cut masks (samples, H, W), which cover a whole picture, to the part that a row shows.

    Parameters
    ----------
    mask
        (samples, H, W).
    crop
        Where on the picture the part is.
    latent
        Height and width of the part, in the crop's pixels.
    mode
        How the masks are resized first, where their pixels do not meet the crop's borders.

    A part that reaches over the picture's border goes on at the opposite one.

    Raises
    ------
    ValueError
        Where the part is larger than the picture, or begins outside of it.
    """
    starts, sizes = (crop.top, crop.left), tuple(latent)
    sides = list(zip(starts, sizes, crop.canvas, strict=True))
    if any(not 0 <= start < side or size > side for start, size, side in sides):
        raise ValueError(
            f"crop: expected a part of a picture of {crop.canvas}, got {sizes} at {starts}"
        )
    ends = tuple(start + size for start, size, _ in sides)
    for dim, (end, side) in enumerate(zip(ends, crop.canvas, strict=True)):
        if end > side:
            mask = torch.cat([mask, mask], dim + 1)
            height, width = (2 * s if d == dim else s for d, s in enumerate(crop.canvas))
            return crop_mask(mask, crop._replace(canvas=(height, width)), latent, mode)
    borders = [
        (edge * side, canvas)
        for edges, side, canvas in zip(
            zip(starts, ends, strict=True), mask.shape[1:], crop.canvas, strict=True
        )
        for edge in edges
    ]
    if any(edge % canvas for edge, canvas in borders):
        return crop_mask(_resize(mask, crop.canvas, mode), crop, latent, mode)
    top, bottom, left, right = (edge // canvas for edge, canvas in borders)
    return mask[:, top:bottom, left:right]


def as_batch(mask: torch.Tensor) -> torch.Tensor:
    """Give a mask (H, W) or (samples, H, W) as (samples, H, W), a view of it."""
    return mask[None] if mask.dim() == 2 else mask


class MaskPyramid:
    """A mask at every token grid that a model asks for.

    Each is made once; anew at every call where the mask requires a gradient.
    """

    def __init__(self, mask: torch.Tensor, mode: str, *, shared_softmax: bool = False) -> None:
        self.requires_grad = mask.requires_grad
        self._mask = mask
        self._mode = mode
        self._shared_softmax = shared_softmax
        self._grids = Cache(size=32)

    def at(
        self,
        grid: tuple[int, int],
        crop: Crop | None = None,
        latent: tuple[int, int] | None = None,
    ) -> torch.Tensor:
        """Give the masks (samples, rows·columns) of a token grid (rows, columns).

        Of the part of the picture that a row shows, where `crop` and `latent` name one.
        """
        if self.requires_grad:
            mask = as_batch(self._mask).float()
            if self._shared_softmax:
                check_joint(mask)
            return self._make(mask, grid, crop, latent)
        key = (grid, crop, latent)
        return self._grids.get(key, lambda: self._make(self._mask, grid, crop, latent))

    def _make(
        self,
        mask: torch.Tensor,
        grid: tuple[int, int],
        crop: Crop | None,
        latent: tuple[int, int] | None,
    ) -> torch.Tensor:
        if crop is not None and latent is not None:
            mask = crop_mask(mask, crop, latent, self._mode)
        return resize_mask(mask, grid, self._mode)


def check_joint(mask: torch.Tensor) -> None:
    """Raise ValueError unless a shared softmax takes the mask."""
    mask = mask.detach()
    if bool((mask < 0).any()):
        least = float(mask.min())
        raise ValueError(f"mask: expected values of at least 0 in a shared softmax, got {least}")
