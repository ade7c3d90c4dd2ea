# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""The demo on the model in the package: no download, no dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import attnpatch as ap
from attnpatch.demo import store
from attnpatch.demo.classifier import classify
from attnpatch.demo.items import CLASS_NAMES, to_pixels
from attnpatch.demo.model import LATENT_SIZE, NULL_CLASS
from attnpatch.demo.pipeline import FashionPipeline
from attnpatch.demo.runner import StepSchedule
from attnpatch.demo.sample import IMAGE_GUIDANCE, make_noise
from attnpatch.demo.variants import Variant, make_patches


class EmbeddedModel:
    """The shipped UNet, image encoder, adapter and judge, on held-out test items.

    Parameters
    ----------
    items : sequence of int
        Which of the shipped test items are the references; the next one is each one's partner.
    steps, seed : int
    folder : Path
        Where the weights are.

    Raises
    ------
    ValueError
        When an item is not among those shipped.
    """

    def __init__(
        self,
        items: Sequence[int],
        steps: int,
        seed: int,
        folder: Path = store.SHIPPED,
    ) -> None:
        shipped = store.load_references(folder)
        for item in items:
            if not 0 <= item < len(shipped):
                raise ValueError(f"items: expected 0 to {len(shipped) - 1}, got {item}")
        chosen = torch.tensor(list(items))
        self.steps = steps
        self.labels = shipped.labels[chosen]
        self.names = [CLASS_NAMES[label] for label in self.labels]
        pixels = to_pixels(shipped.images[chosen])
        self.references = to_pictures(pixels)
        self.partners = self.references[1:] + self.references[:1]
        self._pipeline = FashionPipeline.shipped(folder)
        self._encoder = store.load_encoder(folder)
        self._judge = store.load_classifier(folder)
        self._adapter = ap.load_image_adapter(folder / store.ADAPTER_FILE, dtype=torch.float32)
        features = self._encoder(pixels)
        self._embeds = self._adapter.get_image_embeds(features, combine=None)
        self._partner_embeds = self._adapter.get_image_embeds(features.roll(-1, 0), combine=None)
        self.attention: torch.Tensor | None = None
        self._noise = make_noise(1, seed).expand(len(chosen), -1, -1, -1)

    def generate(self, variant: Variant, schedule: StepSchedule) -> list[Image.Image]:
        """Generate one picture per reference, all from the same noise and without a class."""
        size = (LATENT_SIZE, LATENT_SIZE)
        patches = make_patches(variant, self._adapter, self._embeds, self._partner_embeds, size)
        classes = torch.full_like(self.labels, NULL_CLASS)
        arguments = (classes, self._noise, IMAGE_GUIDANCE, self.steps, schedule)
        if not patches:
            return to_pictures(self._pipeline(*arguments))
        with ap.attach(self._pipeline, patches, cond_or_uncond=(1, 0)) as attached:
            pictures = to_pictures(self._pipeline(*arguments))
        self.attention = attached.attention
        return pictures

    @torch.inference_mode()
    def similarity(self, pictures: list[Image.Image], targets: list[Image.Image]) -> list[float]:
        """Cosine similarity of the encoder's embeddings."""
        features = [self._encoder(to_tensor(group)) for group in (pictures, targets)]
        return torch.cosine_similarity(*features).tolist()

    def share_right(self, pictures: list[Image.Image]) -> float:
        """Share of the pictures that the judge gives the reference's class."""
        named = classify(self._judge, to_tensor(pictures)).argmax(-1)
        return (named == self.labels).float().mean().item()


def to_pictures(pixels: torch.Tensor) -> list[Image.Image]:
    """Turn (N, 1, 32, 32) in [-1, 1] into grey pictures."""
    levels = ((pixels + 1.0) * 127.5).round().clamp(0, 255).byte().cpu().numpy()
    return [Image.fromarray(level[0]) for level in levels]


def to_tensor(pictures: list[Image.Image]) -> torch.Tensor:
    """Turn pictures into (N, 1, 32, 32) in [-1, 1]."""
    levels = np.stack([np.asarray(picture.convert("L"), np.float32) for picture in pictures])
    return torch.from_numpy(levels)[:, None] / 127.5 - 1.0
