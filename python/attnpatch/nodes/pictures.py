# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Small arithmetic on pictures (B, H, W, 3), 0 to 1, on the CPU."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "elastic",
    "gaussian_blur",
    "middle",
    "middle_square",
    "resize",
    "resize_by_pillow",
    "sharpen",
]


def middle_square(picture: Tensor) -> Tensor:
    """Cut the square in the middle of (B, C, H, W)."""
    side = min(picture.shape[-2:])
    return middle(picture, side, side)


def middle(picture: Tensor, height: int, width: int) -> Tensor:
    """Cut so many rows and columns of the middle of (B, C, H, W)."""
    top = round((picture.shape[-2] - height) / 2)
    left = round((picture.shape[-1] - width) / 2)
    return picture[..., top : top + height, left : left + width]


def resize(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, C, H, W) to (height, width), bicubic and antialiased."""
    if picture.shape[-2:] == size:
        return picture
    return F.interpolate(picture, size=size, mode="bicubic", antialias=True)


def resize_by_pillow(image: Tensor, size: tuple[int, int], filter: str) -> Tensor:
    """Resize pictures to (height, width) by one of Pillow's filters, by 8 bits a channel."""
    from PIL import Image

    resample = Image.Resampling[filter]
    eights = (image[..., :3].cpu() * 255).clamp(0, 255).byte().numpy()
    resized = [Image.fromarray(each).resize(size[::-1], resample=resample) for each in eights]
    return torch.from_numpy(np.stack([np.asarray(each) for each in resized])).float() / 255


def sharpen(image: Tensor, amount: float) -> Tensor:
    """Sharpen where there is room for it (AMD FidelityFX's contrast-adaptive sharpening).

    Every pixel becomes (e + w (b + d + f + h)) / (1 + 4 w) of itself and its four neighbours, with
    w = -s·(1/8 + amount·(1/5 - 1/8)) and s = sqrt(min(low, 2 - high) / high), where low and high
    are the least and the greatest of the five, plus those of the four corners.

    Parameters
    ----------
    image
        (B, H, W, 3), 0 to 1.
    amount
        0 to 1.
    """
    padded = F.pad(image.cpu().movedim(-1, 1), (1, 1, 1, 1))
    height, width = image.shape[1:3]

    def at(row: int, column: int) -> Tensor:
        return padded[..., row : row + height, column : column + width]

    centre = at(1, 1)
    sides = torch.stack([at(0, 1), at(1, 0), at(1, 2), at(2, 1)])
    corners = torch.stack([at(0, 0), at(0, 2), at(2, 0), at(2, 2)])
    cross = torch.cat([sides, centre[None]])
    low = cross.amin(0).clamp_min(0) + corners.amin(0).clamp_min(0)
    high = cross.amax(0).clamp_max(1) + corners.amax(0).clamp_max(1)
    weight = -(torch.minimum(low, 2 - high) / high).sqrt() * (amount * (1 / 5 - 1 / 8) + 1 / 8)
    sharp = (sides.sum(0) * weight + centre) / (1 + 4 * weight)
    return sharp.nan_to_num().clamp(0, 1).movedim(1, -1)


def gaussian_blur(image: Tensor, kernel: int, sigma: float | None = None) -> Tensor:
    """Blur (B, C, H, W) by a Gaussian of an odd number of taps; sigma as OpenCV has it by default.

    Borders are mirrored.
    """
    if sigma is None:
        sigma = 0.3 * ((kernel - 1) * 0.5 - 1) + 0.8
    half = (kernel - 1) * 0.5
    taps = torch.exp(-0.5 * (torch.linspace(-half, half, kernel) / sigma) ** 2)
    taps = (taps / taps.sum()).to(image)
    pad = kernel // 2
    if pad >= min(image.shape[-2:]):
        raise ValueError(f"blur: {kernel} taps are too many for pictures of {image.shape[-2:]}")
    channels = image.shape[1]
    image = F.pad(image, (pad, pad, pad, pad), mode="reflect")
    image = F.conv2d(image, taps.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return F.conv2d(image, taps.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)


def elastic(image: Tensor, alpha: float, sigma: float, generator: torch.Generator) -> Tensor:
    """Shift every pixel of (B, C, H, W) by smooth noise of up to `alpha` pixels.

    What comes from beyond the picture is black, and darkens once more where it mixes in, as
    torchvision has it.
    """
    height, width = image.shape[-2:]
    shifts = []
    for side in (height, width):
        shift = torch.rand(1, 1, height, width, generator=generator) * 2 - 1
        if sigma > 0:
            taps = int(8 * sigma + 1)
            shift = gaussian_blur(shift, taps + (taps % 2 == 0), sigma)
        shifts.append(shift[0, 0] * alpha / side)
    straight = F.affine_grid(torch.eye(2, 3)[None], [1, 1, height, width], align_corners=False)
    grid = (straight + torch.stack(shifts, dim=-1)).expand(len(image), -1, -1, -1).to(image)
    whole = torch.ones_like(image[:, :1])
    moved, inside = (
        F.grid_sample(each, grid, mode="bilinear", align_corners=False) for each in (image, whole)
    )
    return moved * inside
