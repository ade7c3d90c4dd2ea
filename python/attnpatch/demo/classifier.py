# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""A judge that is independent of the encoder: another structure, trained on labels alone."""

from __future__ import annotations

import torch
from torch import nn


class Classifier(nn.Module):
    """Pictures (B, 1, 32, 32) in [-1, 1] to logits (B, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            *_block(1, 24),
            nn.MaxPool2d(2),
            *_block(24, 48),
            nn.MaxPool2d(2),
            *_block(48, 96),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(96 * 4 * 4, 96),
            nn.ReLU(),
            nn.Linear(96, 10),
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Classify pictures."""
        return self.net(pixels)


def _block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


@torch.inference_mode()
def classify(model: Classifier, pixels: torch.Tensor, batch: int = 500) -> torch.Tensor:
    """Class probabilities (N, 10) of pictures (N, 1, 32, 32)."""
    model.eval()
    return torch.cat([model(part).softmax(-1) for part in pixels.split(batch)])
