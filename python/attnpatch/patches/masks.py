# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Masks: which tokens of a picture an image prompt reaches."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from attnpatch.patches.cache import Cache

__all__ = ["MASK_RESIZE_MODES", "MaskPyramid", "resize_mask", "to_mask"]

MASK_RESIZE_MODES = ("bilinear", "area", "bicubic", "nearest")


def to_mask(mask: Any, *, name: str = "mask") -> torch.Tensor:
    """Read a mask of shape (H, W) or (pictures, H, W) as a float32 CPU tensor (pictures, H, W).

    Raises
    ------
    ValueError
        For other shapes, empty masks and values that are not finite.
    """
    tensor = torch.as_tensor(mask).detach().to("cpu", torch.float32, copy=True)
    if tensor.dim() == 2:
        tensor = tensor[None]
    if tensor.dim() != 3 or 0 in tensor.shape:
        raise ValueError(
            f"{name}: expected shape (H, W) or (pictures, H, W), got {tuple(tensor.shape)}"
        )
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name}: expected finite values")
    return tensor.contiguous()


def resize_mask(mask: torch.Tensor, grid: tuple[int, int], mode: str = "bilinear") -> torch.Tensor:
    """Resize masks (pictures, H, W) to a token grid (h, w); gives (pictures, h·w), row by row.

    The modes are those of ``torch.nn.functional.interpolate``, corners not aligned.
    """
    if mode not in MASK_RESIZE_MODES:
        raise ValueError(f"mask_resize: expected one of {MASK_RESIZE_MODES}, got {mode!r}")
    if tuple(mask.shape[1:]) != tuple(grid):
        corners = {"align_corners": False} if mode in ("bilinear", "bicubic") else {}
        mask = F.interpolate(mask[:, None], size=grid, mode=mode, **corners)[:, 0]
    return mask.flatten(1)


class MaskPyramid:
    """A mask at every token grid that a model asks for; each is made once."""

    def __init__(self, mask: torch.Tensor, mode: str) -> None:
        self._mask = mask
        self._mode = mode
        self._grids = Cache(size=32)

    def at(self, grid: tuple[int, int]) -> torch.Tensor:
        """Give the masks (pictures, rows·columns) of a token grid (rows, columns)."""
        return self._grids.get(grid, lambda: resize_mask(self._mask, grid, self._mode))
