# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A user's own SD1.5, SD2 or SDXL, as the playground runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import attnpatch as ap
from attnpatch.demo.own_model import (
    OwnOptions,
    dtype_keyword,
    encoder_source,
    load_adapter,
    load_encoder,
    load_pipeline,
)
from attnpatch.demo.variants import LARGE_REDUCTIONS
from attnpatch.engine import LayerTable, Patch
from attnpatch.hosts.diffusers import read_layer_table
from attnpatch.pictures import Picture
from attnpatch.playground.script import call, quoted
from attnpatch.playground.settings import Settings

__all__ = ["OwnModel"]


class OwnModel:
    """A pipeline of diffusers with an adapter.

    Parameters
    ----------
    options : OwnOptions
        What the command line says; its pictures are not used.

    Raises
    ------
    ValueError, OSError
        For an adapter that takes no pictures, or files that cannot be read.
    """

    texts: tuple[str, ...] = ()
    reductions = LARGE_REDUCTIONS

    def __init__(self, options: OwnOptions) -> None:
        self._options = options
        self.title = Path(options.model).name
        self._adapter = load_adapter(options)
        self._encoder = load_encoder(self._adapter, options)
        self._pipeline = load_pipeline(options, self._adapter.family)
        self._pipeline.set_progress_bar_config(disable=True)
        unet, factor = self._pipeline.unet, self._pipeline.vae_scale_factor
        self.defaults = Settings(
            text=options.prompt,
            guidance=options.guidance,
            steps=options.steps,
            seed=options.seed,
            size=options.size or unet.config.sample_size * factor,
        )

    @cached_property
    def table(self) -> LayerTable:
        """The UNet's layers."""
        return read_layer_table(self._pipeline.unet)

    def examples(self) -> list[Image.Image]:
        """Give nothing: there are no pictures of yours."""
        return []

    def image_prompt(self, picture: Picture, **options: Any) -> ap.ImagePrompt:
        """Make an image prompt of a picture; options are those of `attnpatch.ImagePrompt`."""
        return ap.ImagePrompt.from_pictures(self._adapter, picture, self._encoder, **options)

    def generate(
        self, patches: Sequence[Patch], settings: Settings, on_step: Callable[[int, int], None]
    ) -> tuple[Image.Image, torch.Tensor | None]:
        """Generate a picture as settings have it."""

        def after_step(
            pipeline: Any, step: int, timestep: Any, values: dict[str, Any]
        ) -> dict[str, Any]:
            on_step(step, settings.steps)
            return values

        def run() -> Image.Image:
            return self._pipeline(
                prompt=settings.text,
                negative_prompt=settings.negative,
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance,
                height=settings.size,
                width=settings.size,
                generator=torch.Generator().manual_seed(settings.seed),
                callback_on_step_end=after_step,
            ).images[0]

        if not len(patches):
            return run(), None
        with ap.attach(self._pipeline, patches) as attached:
            picture = run()
        return picture, attached.attention

    def script_prompt(self, picture: str, options: Mapping[str, str]) -> str:
        """Write the call that makes an image prompt of a file."""
        return call(
            "ap.ImagePrompt.from_pictures", "adapter", quoted(picture), "encoder", **options
        )

    def script_parts(self, settings: Settings) -> tuple[list[str], list[str], list[str]]:
        """Write what a script imports, what it loads, and how it runs the stack."""
        options = self._options
        device, dtype = quoted(options.device), str(options.dtype)
        kind, method = "AutoPipelineForText2Image", "from_pretrained"
        if Path(options.model).is_file():
            kind, method = type(self._pipeline).__name__, "from_single_file"
        load = call(f"{kind}.{method}", quoted(options.model), **{dtype_keyword(): dtype})
        source, where = encoder_source(self._adapter, options.image_encoder)
        encoder = call(
            "CLIPVisionModelWithProjection.from_pretrained",
            quoted(source),
            **{name: quoted(value) for name, value in where.items()},
        )
        adapter = call("ap.load_image_adapter", quoted(options.adapter), device=device, dtype=dtype)
        run = call(
            "pipeline",
            prompt=quoted(settings.text),
            negative_prompt=quoted(settings.negative),
            num_inference_steps=repr(settings.steps),
            guidance_scale=repr(settings.guidance),
            height=repr(settings.size),
            width=repr(settings.size),
            generator=f"torch.Generator().manual_seed({settings.seed})",
        ).replace("\n", "\n    ")
        return (
            [
                "import torch",
                f"from diffusers import {kind}",
                "from transformers import CLIPVisionModelWithProjection",
            ],
            [
                f"pipeline = {load}.to({device})",
                f"encoder = {encoder}.to({device}, {dtype}).eval()",
                f"adapter = {adapter}",
            ],
            ["with ap.attach(pipeline, stack):", f"    picture = {run}.images[0]"],
        )
