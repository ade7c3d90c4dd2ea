# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of what self-attention guidance records: heat maps, and the mask of the blur."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from attnpatch.pictures import Pictures, Pixels, read_pictures

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["show_attention"]

# From little attention to much: dark blue, blue, teal, yellow, red.
COLOURS = torch.tensor(
    [
        [0.10, 0.07, 0.30],
        [0.13, 0.30, 0.70],
        [0.10, 0.66, 0.62],
        [0.98, 0.83, 0.24],
        [0.86, 0.12, 0.13],
    ]
)
_MASK = torch.tensor([1.0, 0.69, 0.23])


def show_attention(
    attention: Tensor,
    picture: Pictures | None = None,
    *,
    grid: tuple[int, int] | None = None,
    threshold: float | None = None,
    opacity: float = 0.6,
    size: int = 256,
) -> Image.Image:
    """Draw recorded attention as a heat map over a picture.

    Notebooks show the result; ``.save("map.png")`` writes it.

    Parameters
    ----------
    attention
        Maps (B, h, w), as ``Attachment.attention`` has them, or one (h, w); or column means (B, N)
        or (N,) with the grid. Any floating dtype and device.
    picture
        What to draw over, one picture for all or as many as there are maps: files, pictures of
        Pillow, arrays or tensors; see `attnpatch.pictures.read_pictures`. None: only the map.
    grid
        Rows and columns of N tokens.
    threshold
        None: a heat map, blue where a token gets none, red where it gets twice its share and more.
        A number: the mask instead, tinted where attention is above it, as guidance blurs there.
    opacity
        Of the map over the picture, 0 to 1.
    size
        Length of the longer side in pixels, where there is no picture.

    Returns
    -------
    PIL.Image.Image
        RGB; several maps stand side by side.

    Raises
    ------
    ValueError
        Where shapes and numbers do not fit, naming them.
    """
    from PIL import Image

    maps = _maps(attention, grid)
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity: expected 0 to 1, got {opacity}")
    pictures: list[Pixels | None] = [None]
    if picture is not None:
        pictures = [*read_pictures(picture, "picture")]
    if not isinstance(picture, list | tuple) and len(pictures) == 1:
        pictures *= len(maps)
    if len(pictures) != len(maps):
        raise ValueError(f"picture: expected one or {len(maps)}, got {len(pictures)}")
    parts = [
        _draw(heat, below, threshold, opacity, size)
        for heat, below in zip(maps, pictures, strict=True)
    ]
    joined = Image.new("RGB", (sum(p.width for p in parts), max(p.height for p in parts)))
    left = 0
    for part in parts:
        joined.paste(part, (left, 0))
        left += part.width
    return joined


def _maps(attention: Tensor, grid: tuple[int, int] | None) -> Tensor:
    """Float32 (B, h, w) on the CPU."""
    maps = attention.detach().float().cpu()
    if grid is not None:
        if maps.dim() not in (1, 2) or maps.shape[-1] != grid[0] * grid[1]:
            raise ValueError(
                f"grid: {grid[0]}×{grid[1]} tokens, but attention has shape {tuple(maps.shape)}; "
                "expected (N,) or (B, N)"
            )
        maps = maps.unflatten(-1, grid)
    if maps.dim() == 2:
        maps = maps[None]
    if maps.dim() != 3 or 0 in maps.shape:
        raise ValueError(
            "attention: expected (h, w) or (B, h, w), or (N,) or (B, N) with the grid, "
            f"got shape {tuple(attention.shape)}"
        )
    return maps


def _draw(
    heat: Tensor, below: Pixels | None, threshold: float | None, opacity: float, size: int
) -> Image.Image:
    from PIL import Image

    if below is None:
        scale = size / max(heat.shape)
        shape = tuple(max(1, round(side * scale)) for side in heat.shape)
        base = torch.zeros(*shape, 3)
        opacity = 1.0 if threshold is None else opacity
    else:
        shape = below.shape[:2]
        base = torch.tensor(below).float() / 255  # a copy: it may be the caller's
    heat = F.interpolate(heat[None, None], shape, mode="nearest")[0, 0]
    if threshold is None:
        share = (heat / 2).nan_to_num(0.0).clamp(0, 1) * (len(COLOURS) - 1)
        low = share.floor().clamp(max=len(COLOURS) - 2)
        part = (share - low)[..., None]
        low = low.long()
        colour = COLOURS[low] * (1 - part) + COLOURS[low + 1] * part
        alpha = torch.full((*shape, 1), opacity)
    else:
        colour = _MASK.expand(*shape, 3)
        alpha = (heat > threshold)[..., None] * opacity
    drawn = base * (1 - alpha) + colour * alpha
    pixels = (drawn * 255).round().to(torch.uint8).contiguous()
    return Image.fromarray(pixels.numpy())
