# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""The demo on a user's own SD1.5, SD2 or SDXL pipeline, through diffusers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
        self._adapter = load_adapter(options)
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


def load_adapter(options: OwnOptions, kind: str | None = None) -> ap.ImageAdapter:
    """Load the adapter.

    Raises
    ------
    ValueError
        For what is none, or not of that kind.
    """
    try:
        return ap.load_image_adapter(
            options.adapter, kind=kind, device=options.device, dtype=options.dtype
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"--adapter: {error}") from error


def load_pipeline(options: OwnOptions, family: str | None = None, where: str = "--model") -> Any:
    """Load a text-to-image pipeline from a single file, a folder or a model's ID.

    Parameters
    ----------
    options
        Its model, device and dtype.
    family
        Of which family a single file is: the one that its adapter fits.
    where
        What an error calls the model.

    Raises
    ------
    ValueError
        For a single file of a family that is not known; for a model that cannot be loaded.
    """
    from diffusers import (
        AutoPipelineForText2Image,
        StableDiffusionPipeline,
        StableDiffusionXLPipeline,
    )

    if Path(options.model).is_file():
        if family is None:
            raise ValueError(
                f"{where}: expected an adapter, or the family, that tells which of SD1.5, SD2 and "
                f"SDXL the single file {options.model} is, got neither"
            )
        pipeline_class = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
        load = pipeline_class.from_single_file
    else:
        load = AutoPipelineForText2Image.from_pretrained
    expected = "a model as a file, as a folder of diffusers or as an ID of the hub"
    with _named(f"{where}: expected {expected}, got {options.model}"):
        pipeline = load(options.model, **{dtype_keyword(): options.dtype})
    return pipeline.to(options.device)


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Put words of ours before an error of diffusers or transformers, and of its own one line."""
    try:
        yield
    except (OSError, ValueError, LookupError, RuntimeError) as error:
        raise ValueError(f"{what}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    from huggingface_hub.errors import LocalEntryNotFoundError

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, LocalEntryNotFoundError):
            return "it is not on this machine, and the hub was not reached"
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, KeyError):
        return f"it lacks {error}"
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def dtype_keyword() -> str:
    """Name the argument of diffusers for a dtype: newer versions warn about the old name."""
    import diffusers

    release = tuple(int(part) for part in diffusers.__version__.split(".")[:2])
    return "dtype" if release >= (0, 42) else "torch_dtype"


def load_encoder(adapter: Any, options: OwnOptions, where: str = "--image-encoder") -> Any:
    """Load the CLIP vision model that the adapter was trained with.

    Parameters
    ----------
    adapter
        What was loaded.
    options
        Its image encoder, device and dtype.
    where
        What an error calls the encoder.

    Raises
    ------
    ValueError
        When the adapter takes face embeddings, or features of an encoder that is not known; for an
        encoder that cannot be loaded.
    """
    from transformers import CLIPVisionModelWithProjection

    source, inside = encoder_source(adapter, options.image_encoder, where)
    given = "/".join((source, *inside.values()))
    if options.image_encoder is None:
        given = f"none, and that of the adapter is {given}"
    expected = "a CLIP vision model as a folder or as an ID of the hub"
    with _named(f"{where}: expected {expected}, got {given}"):
        encoder = CLIPVisionModelWithProjection.from_pretrained(source, **inside)
    return encoder.to(options.device, options.dtype).eval()


def encoder_source(
    adapter: Any, image_encoder: str | None, where: str = "--image-encoder"
) -> tuple[str, dict[str, str]]:
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
        f"{where}: expected {names or 'the encoder of the adapter'}, which gives {takes}, got none"
    )


def read_references(paths: Sequence[str]) -> list[Image.Image]:
    """Read pictures, upright, and crop the middle square of each."""
    return [square(Image.fromarray(read_picture(path, "--image"))) for path in paths]


def square(picture: Image.Image) -> Image.Image:
    """Crop the middle square of a picture."""
    edge = min(picture.size)
    left, top = (picture.width - edge) // 2, (picture.height - edge) // 2
    return picture.crop((left, top, left + edge, top + edge))
