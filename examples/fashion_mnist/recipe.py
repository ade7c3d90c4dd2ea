# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""The numbers of the training recipe, in one place."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """How the demo's networks are trained.

    A step's pictures are split at random into: image prompt off (`image_off`), zero embedding
    (`image_zero`, the uncond side), image prompt on (the rest). The class is dropped with
    `class_drop` where the image is off, always with a zero embedding, and with `class_drop_image`
    where the image is on, so that both kinds of prompt work alone.
    """

    seed: int = 0
    steps: int = 4000
    batch: int = 48
    learning_rate: float = 2.5e-3
    warmup: int = 200
    decay: float = 0.45
    weight_decay: float = 0.01
    ema: float = 0.998
    image_off: float = 0.45
    image_zero: float = 0.10
    class_drop: float = 0.12
    class_drop_image: float = 0.65
    embed_noise: float = 0.1
    encoder_epochs: int = 5
    classifier_epochs: int = 6
    small_batch: int = 128
    small_learning_rate: float = 2e-3

    def rate(self, step: int) -> float:
        """Learning rate of a step: warm-up, constant, then a cosine decay over the last part."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        start = self.steps * (1.0 - self.decay)
        if step < start:
            return self.learning_rate
        progress = (step - start) / max(self.steps - start, 1.0)
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
