# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""The demo on a user's own SD1.5, SD2 or SDXL pipeline, through diffusers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import attnpatch as ap
from attnpatch.adapters.encode import encode_pictures
from attnpatch.demo.runner import StepSchedule
from attnpatch.demo.variants import Variant, make_patches
from attnpatch.pictures import read_picture


@dataclass(frozen=True)
class OwnOptions:
    """What the command line says about a user's model."""

    model: str
    adapter: str
    images: tuple[str, ...]
    image_encoder: str | None = None
    prompt: str = ""
    steps: int = 25
    seed: int = 0
    size: int | None = None
    guidance: float = 5.0
    device: str = "cpu"
    dtype: torch.dtype = torch.float32


class OwnModel:
    """A user's pipeline, adapter and references."""

    def __init__(self, options: OwnOptions) -> None:
        self.steps = options.steps
        self._options = options
        self._adapter = ap.load_image_adapter(
            options.adapter, device=options.device, dtype=options.dtype
        )
        self._encoder = load_encoder(self._adapter, options)
        self.references = read_references(options.images)
        self.partners = self.references[1:] + self.references[:1]
        self.names = [Path(path).stem for path in options.images]
        self._embeds = self._adapter.encode(self.references, self._encoder, combine=None)
        self._partner_embeds = replace(self._embeds, cond=self._embeds.cond.roll(-1, 0))
        self._pipeline = load_pipeline(options, self._adapter.family)
        self._pipeline.set_progress_bar_config(disable=True)
        size = options.size or self._pipeline.unet.config.sample_size * self._vae_scale
        self._size = (size, size)
        self.attention: torch.Tensor | None = None

    @property
    def _vae_scale(self) -> int:
        return self._pipeline.vae_scale_factor

    def generate(self, variant: Variant, schedule: StepSchedule) -> list[Image.Image]:
        """Generate one picture per reference, all from the same seed."""
        latent = tuple(edge // self._vae_scale for edge in self._size)
        patches = make_patches(variant, self._adapter, self._embeds, self._partner_embeds, latent)
        if not patches:
            return self._run(schedule)
        with ap.attach(self._pipeline, patches) as attached:
            pictures = self._run(schedule)
        self.attention = attached.attention
        return pictures

    def similarity(self, pictures: list[Image.Image], targets: list[Image.Image]) -> list[float]:
        """Cosine similarity of CLIP's image embeddings."""
        a, b = (
            encode_pictures(group, self._encoder, "pooled").float() for group in (pictures, targets)
        )
        return torch.cosine_similarity(a, b).tolist()

    def share_right(self, pictures: list[Image.Image]) -> None:
        """There is no judge for pictures of any kind."""
        return

    def _run(self, schedule: StepSchedule) -> list[Image.Image]:
        def on_step(pipeline: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict:
            schedule()
            return values

        count = len(self.references)
        generators = [torch.Generator().manual_seed(self._options.seed) for _ in range(count)]
        return self._pipeline(
            prompt=self._options.prompt,
            num_images_per_prompt=count,
            num_inference_steps=self.steps,
            guidance_scale=self._options.guidance,
            height=self._size[0],
            width=self._size[1],
            generator=generators,
            callback_on_step_end=on_step,
        ).images


def load_pipeline(options: OwnOptions, family: str | None = None) -> Any:
    """Load a text-to-image pipeline from a single file, a folder or a model's ID.

    Parameters
    ----------
    options
        Its model, device and dtype.
    family
        Of which family a single file is; None: the one that the adapter of `options` fits.

    Raises
    ------
    ValueError
        For a single file, where neither says it.
    """
    from diffusers import (
        AutoPipelineForText2Image,
        StableDiffusionPipeline,
        StableDiffusionXLPipeline,
    )

    dtype = {dtype_keyword(): options.dtype}
    if Path(options.model).is_file():
        if family is None and not options.adapter:
            raise ValueError(
                f"model: expected an adapter, or the family, that tells which of SD1.5, SD2 and "
                f"SDXL the single file {options.model} is, got neither"
            )
        family = family or ap.load_image_adapter(options.adapter).family
        pipeline_class = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
        pipeline = pipeline_class.from_single_file(options.model, **dtype)
    else:
        pipeline = AutoPipelineForText2Image.from_pretrained(options.model, **dtype)
    return pipeline.to(options.device)


def dtype_keyword() -> str:
    """Name the argument of diffusers for a dtype: newer versions warn about the old name."""
    import diffusers

    release = tuple(int(part) for part in diffusers.__version__.split(".")[:2])
    return "dtype" if release >= (0, 42) else "torch_dtype"


def load_encoder(adapter: Any, options: OwnOptions) -> Any:
    """Load the CLIP vision model that the adapter was trained with.

    Raises
    ------
    ValueError
        When the adapter takes face embeddings, or features of an encoder that is not known.
    """
    from transformers import CLIPVisionModelWithProjection

    source, where = encoder_source(adapter, options.image_encoder)
    encoder = CLIPVisionModelWithProjection.from_pretrained(source, **where)
    return encoder.to(options.device, options.dtype).eval()


def encoder_source(adapter: Any, image_encoder: str | None) -> tuple[str, dict[str, str]]:
    """Say where the CLIP vision model of an adapter is, as arguments of `from_pretrained`.

    Raises
    ------
    ValueError
        As for `load_encoder`.
    """
    takes = adapter.takes[0]
    if len(adapter.takes) != 1 or takes.form not in ("pooled", "hidden"):
        raise ValueError(
            f"--adapter: {adapter.kind} takes {' and '.join(map(str, adapter.takes))}; "
            "the demo runs adapters that take CLIP features"
        )
    if image_encoder is not None:
        return image_encoder, {}
    if len(takes.encoders) == 1:
        (known,) = takes.encoders
        return known.repository, {"subfolder": known.subfolder}
    names = " or ".join(encoder.repository for encoder in takes.encoders)
    raise ValueError(
        f"--image-encoder: expected {names or 'the encoder of the adapter'}, which gives "
        f"{takes}, got none"
    )


def read_references(paths: Sequence[str]) -> list[Image.Image]:
    """Read pictures, upright, and crop the middle square of each."""
    return [square(Image.fromarray(read_picture(path, "--image"))) for path in paths]


def square(picture: Image.Image) -> Image.Image:
    """Crop the middle square of a picture."""
    edge = min(picture.size)
    left, top = (picture.width - edge) // 2, (picture.height - edge) // 2
    return picture.crop((left, top, left + edge, top + edge))
