# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The small model in the package: prompts are classes of clothes, or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from attnpatch.adapters import ImageAdapter, ImageEmbeds, load_image_adapter
from attnpatch.demo import store
from attnpatch.demo.items import IMAGE_SIZE
from attnpatch.demo.model import LATENT_SIZE
from attnpatch.demo.pipeline import FashionPipeline
from attnpatch.demo.sample import IMAGE_GUIDANCE, STEPS, make_noise
from attnpatch.hosts.host_call import CondOrUncond
from attnpatch.pictures import Picture
from attnpatch.studies.cells import Cell
from attnpatch.studies.models.takes import FashionTakes

__all__ = ["FashionModel"]


class FashionModel(FashionTakes):
    """The model in the package.

    Parameters
    ----------
    device
        Where it runs.
    """

    cond_or_uncond: CondOrUncond | None = (1, 0)

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        pipeline: Any = FashionPipeline.shipped()
        for module in (pipeline.unet, pipeline.text):
            module.to(device)
        self.pipeline = pipeline
        self._encoder = store.load_encoder()

    def adapter(self, source: str, options: Mapping[str, Any]) -> ImageAdapter:
        """Read an adapter; the model's name stands for the one in the package."""
        path = self.own_adapter(source) or source
        return load_image_adapter(path, dtype=torch.float32, **options)

    def encode(
        self, adapter: ImageAdapter, pictures: Sequence[Picture], options: Mapping[str, Any]
    ) -> ImageEmbeds:
        """Make image tokens of pictures, by the encoder in the package."""
        pixels = torch.stack([_pixels(picture) for picture in pictures])
        combine = options.get("combine", "concat")
        return adapter.get_image_embeds(self._encoder(pixels), combine=combine)

    @torch.inference_mode()
    def generate(
        self, cells: Sequence[Cell], on_step: Callable[[], None]
    ) -> npt.NDArray[np.float32]:
        """Make the pictures of some cells in one run."""
        first = cells[0]
        classes = torch.tensor([self.class_of(cell) for cell in cells])
        noise = torch.cat([make_noise(1, cell.argument("seed")) for cell in cells])
        guidance = first.argument("guidance")
        pixels = self.pipeline(
            classes.to(self.device),
            noise.to(self.device),
            IMAGE_GUIDANCE if guidance is None else guidance,
            self.steps(first),
            lambda step, steps: on_step(),
        )
        return ((pixels + 1.0) / 2.0).permute(0, 2, 3, 1).float().cpu().numpy()

    def steps(self, cell: Cell) -> int:
        """Return how many steps a cell has."""
        return cell.argument("steps") or STEPS

    def latent(self, cell: Cell) -> tuple[int, int]:
        """Return the one size that latents have."""
        del cell
        return LATENT_SIZE, LATENT_SIZE

    @torch.inference_mode()
    def similarity(
        self, pictures: Sequence[Picture], references: Sequence[Picture]
    ) -> list[float] | None:
        """Return for each pair the cosine of the encoder's embeddings."""
        a, b = (
            self._encoder(torch.stack([_pixels(picture) for picture in group]))
            for group in (pictures, references)
        )
        return torch.cosine_similarity(a, b).tolist()


def _pixels(picture: Picture) -> Tensor:
    """Return a picture as (1, 32, 32) in [-1, 1], grey."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(np.asarray(picture))
    grey = image.convert("L").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(grey, np.float32))[None] / 127.5 - 1.0
