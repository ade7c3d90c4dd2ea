# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""The model in the package, called as other pipelines are: for notebooks and examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import nn

from attnpatch.adapters import ImageAdapter, load_image_adapter
from attnpatch.demo import store
from attnpatch.demo.embedded import to_pictures
from attnpatch.demo.items import CLASS_NAMES, IMAGE_SIZE, to_pixels
from attnpatch.demo.model import LATENT_CHANNELS, LATENT_SIZE, NULL_CLASS, decode_latents
from attnpatch.demo.pipeline import FashionPipeline
from attnpatch.demo.sample import IMAGE_GUIDANCE, STEPS, sample

__all__ = ["Clothes", "ClothesEncoder", "ClothesPipeline", "load_clothes"]

# What clip_preprocess subtracts and divides by.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)

_LONGER = 1.0 + 1e-4


class Made(NamedTuple):
    """What a pipeline gives."""

    images: list[Image.Image]


class ClothesPipeline(FashionPipeline):
    """Words to pictures of clothes, with the arguments of Stable Diffusion's pipelines."""

    @torch.inference_mode()
    def __call__(  # type: ignore[override]
        self,
        prompt: str | Sequence[str] = "",
        *,
        num_images_per_prompt: int = 1,
        num_inference_steps: int = STEPS,
        guidance_scale: float = IMAGE_GUIDANCE,
        generator: torch.Generator | None = None,
    ) -> Made:
        """Make pictures.

        Parameters
        ----------
        prompt : str or sequence of str
            The name of a kind of clothes, as in `CLASS_NAMES`; "" for any. Or several.
        num_images_per_prompt, num_inference_steps : int
            How many pictures of each, in how many steps.
        guidance_scale : float
            Of classifier-free guidance; the model is small, and likes 1 to 2.
        generator : torch.Generator or None
            Where noise comes from; None: torch's own.

        Returns
        -------
        Made
            With ``images``: grey pictures of 32 × 32 pixels.

        Raises
        ------
        ValueError
            For other words.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        kinds = [_kind(word) for word in prompts for _ in range(num_images_per_prompt)]
        # By these names, and by their values, patches tell cond rows from uncond ones; so that they
        # also can without a prompt, where both are the text for no class, that is a little longer.
        prompt_embeds = self.text(torch.tensor(kinds)) * _LONGER
        negative_prompt_embeds = self.text(torch.full((len(kinds),), NULL_CLASS))
        text = torch.cat([negative_prompt_embeds, prompt_embeds])
        shape = (len(kinds), LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)
        latents = torch.randn(shape, generator=generator)
        self._guidance_scale = guidance_scale
        latents = sample(
            lambda noisy, timestep: self.unet(noisy, timestep, text, return_dict=False)[0],
            latents,
            guidance_scale,
            num_inference_steps,
            scheduler=self.scheduler,
        )
        return Made(to_pictures(decode_latents(latents)))


def _kind(word: str) -> int:
    if word not in ("", *CLASS_NAMES):
        known = ", ".join(map(repr, CLASS_NAMES))
        raise ValueError(f'prompt: expected "" or one of {known}, got {word!r}')
    return CLASS_NAMES.index(word) if word else NULL_CLASS


class ClothesEncoder(nn.Module):
    """The model's image encoder in the place of CLIP's: it takes and gives what that does."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(image_size=IMAGE_SIZE)
        self.encoder = store.load_encoder()

    def forward(self, pixels: torch.Tensor, **_: Any) -> SimpleNamespace:
        """Encode pictures (B, 3, 32, 32), normalised as for CLIP; gives ``image_embeds``."""
        mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in (_MEAN, _DEVIATION))
        grey = (pixels * deviation + mean).mean(1, keepdim=True)
        return SimpleNamespace(image_embeds=self.encoder(2 * grey - 1))


@dataclass(frozen=True, eq=False)
class Clothes:
    """All that the package's model needs, as one loads it for others by several calls."""

    pipeline: ClothesPipeline
    adapter: ImageAdapter
    encoder: ClothesEncoder
    pictures: list[Image.Image]
    """Test items that the model has never seen."""
    names: list[str]
    """Of their kinds."""


def load_clothes() -> Clothes:
    """Load the model in the package: a pipeline, an image adapter, an encoder, and pictures."""
    shipped = store.load_references()
    return Clothes(
        ClothesPipeline.shipped(),
        load_image_adapter(store.SHIPPED / store.ADAPTER_FILE, dtype=torch.float32),
        ClothesEncoder().eval(),
        to_pictures(to_pixels(shipped.images)),
        [CLASS_NAMES[label] for label in shipped.labels],
    )
