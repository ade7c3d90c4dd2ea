# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""Items of Fashion-MNIST, and the pictures that the demo's networks take."""

from __future__ import annotations

from dataclasses import dataclass

import torch

CLASS_NAMES = (
    "t-shirt",
    "trousers",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
IMAGE_SIZE = 32


@dataclass(frozen=True)
class Split:
    """One split.

    Attributes
    ----------
    images : torch.Tensor
        uint8, (N, 28, 28); 0 is background.
    labels : torch.Tensor
        int64, (N,), an index into `CLASS_NAMES`.
    """

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


def to_pixels(images: torch.Tensor) -> torch.Tensor:
    """Turn uint8 items (N, 28, 28) into float32 pictures (N, 1, 32, 32) in [-1, 1]."""
    pad = (IMAGE_SIZE - images.shape[-1]) // 2
    padded = torch.nn.functional.pad(images, (pad, pad, pad, pad))
    return padded[:, None].float().div_(127.5).sub_(1.0)
