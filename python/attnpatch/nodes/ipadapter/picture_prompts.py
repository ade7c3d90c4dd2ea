# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes that make pictures ready for an encoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from attnpatch.nodes.pictures import (
    elastic,
    gaussian_blur,
    middle_square,
    resize,
    resize_by_pillow,
    sharpen,
)
from attnpatch.nodes.spec import Input, NodeSpec, Output

__all__ = ["NODES"]

_SIZE = 224  # pixels a side that the encoders of image adapters look at
_FILTERS = ("LANCZOS", "BICUBIC", "HAMMING", "BILINEAR", "BOX", "NEAREST")
_CROPS = ("top", "bottom", "left", "right", "center", "pad")
_NOISES = ("fade", "dissolve", "gaussian", "shuffle")
_PRIME = 1000000007


def _prepare(
    *, image: Tensor, interpolation: str, crop_position: str, sharpening: float
) -> tuple[Tensor]:
    """Make pictures square and small."""
    square = _pad(image) if crop_position == "pad" else _crop(image, crop_position)
    small = resize_by_pillow(square, (_SIZE, _SIZE), interpolation)
    return (sharpen(small, sharpening) if sharpening > 0 else small,)


def _crop(image: Tensor, position: str) -> Tensor:
    height, width = image.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    if position in ("top", "bottom"):
        top = 0 if position == "top" else height - side
    elif position in ("left", "right"):
        left = 0 if position == "left" else width - side
    return image[:, top : top + side, left : left + side]


def _pad(image: Tensor) -> Tensor:
    height, width = image.shape[1:3]
    x, y = max(height - width, 0) // 2, max(width - height, 0) // 2
    return F.pad(image, (0, 0, x, x, y, y))


def _noise(
    *, type: str, strength: float, blur: int, image_optional: Tensor | None
) -> tuple[Tensor]:
    """Make noise, or a picture disturbed by it; the same inputs give the same noise."""
    if image_optional is None:
        image = torch.zeros(1, _SIZE, _SIZE, 3)
    else:
        square = middle_square(image_optional[..., :3].cpu().movedim(-1, 1))
        image = resize(square, (_SIZE, _SIZE)).movedim(1, -1)
    generator = torch.Generator().manual_seed(int(image.sum()) % _PRIME)
    noisy = _disturb(image, type, strength, generator).clamp(0, 1)
    if blur > 0:
        taps = blur + (blur % 2 == 0)
        noisy = gaussian_blur(noisy.movedim(-1, 1), taps).movedim(1, -1)
    return (noisy,)


def _disturb(image: Tensor, noise_type: str, strength: float, generator: torch.Generator) -> Tensor:
    def uniform() -> Tensor:
        return torch.rand(image.shape, generator=generator)

    if noise_type == "fade":
        return image * (1 - strength) + uniform() * strength
    if noise_type == "dissolve":
        chosen = (uniform() < strength).float()
        return image * (1 - chosen) + uniform() * chosen
    if noise_type == "gaussian":
        return image + torch.randn(image.shape, generator=generator) * strength
    bent = elastic(image.movedim(-1, 1), 75.0, (1 - strength) * 3.5, generator)
    turned = bent.flip(2, 3).movedim(1, -1)
    torch.rand(2, generator=generator)  # other packs ask here whether to turn it
    noise = torch.empty_like(turned).normal_(generator=generator) * (strength * 0.75)
    return turned * (1 - noise) + noise


_CATEGORY = "ipadapter/utils"

NODES = (
    NodeSpec(
        id="PrepImageForClipVision",
        title="Prep Image For ClipVision",
        category=_CATEGORY,
        description="Makes pictures square and 224 pixels a side, as the encoders want them.",
        inputs=(
            Input(id="image", type="IMAGE", tooltip="The pictures."),
            Input(
                id="interpolation",
                type="COMBO",
                choices=_FILTERS,
                tooltip="The filter that makes them smaller; LANCZOS is the sharpest.",
            ),
            Input(
                id="crop_position",
                type="COMBO",
                choices=_CROPS,
                tooltip="Which square is kept; pad keeps all and adds black bars.",
            ),
            Input(
                id="sharpening",
                type="FLOAT",
                default=0.0,
                minimum=0,
                maximum=1,
                step=0.05,
                tooltip="Sharpens afterwards; 0: not.",
            ),
        ),
        outputs=(Output("IMAGE", "IMAGE", "Square pictures."),),
        run=_prepare,
    ),
    NodeSpec(
        id="IPAdapterNoise",
        title="IPAdapter Noise",
        category=_CATEGORY,
        description="Makes noise of a picture, for a negative image.",
        inputs=(
            Input(
                id="type",
                type="COMBO",
                choices=_NOISES,
                tooltip="Noise blended in, in single pixels, added, or the picture bent, turned "
                "and disturbed.",
            ),
            Input(
                id="strength",
                type="FLOAT",
                default=1.0,
                minimum=0,
                maximum=1,
                step=0.05,
                tooltip="How much noise; 1 leaves little of the picture.",
            ),
            Input(
                id="blur",
                type="INT",
                default=0,
                minimum=0,
                maximum=32,
                step=1,
                tooltip="Blurs the noise by so many pixels.",
            ),
            Input(
                id="image_optional",
                type="IMAGE",
                tooltip="The picture to disturb; without it: black.",
                optional=True,
            ),
        ),
        outputs=(Output("IMAGE", "IMAGE", "Noise, 224 pixels a side."),),
        run=_noise,
    ),
)
