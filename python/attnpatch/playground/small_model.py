# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The small model in the package, as the playground runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from PIL import Image

import attnpatch as ap
from attnpatch.demo import store
from attnpatch.demo.embedded import to_pictures, to_tensor
from attnpatch.demo.items import CLASS_NAMES, IMAGE_SIZE, to_pixels
from attnpatch.demo.model import NULL_CLASS
from attnpatch.demo.own_model import square
from attnpatch.demo.pipeline import FashionPipeline
from attnpatch.demo.sample import IMAGE_GUIDANCE, STEPS, make_noise
from attnpatch.demo.variants import SMALL_REDUCTIONS
from attnpatch.engine import LayerTable, Patch
from attnpatch.hosts.diffusers import read_layer_table
from attnpatch.hosts.recognition import diffusers_denoiser
from attnpatch.pictures import Picture, read_picture
from attnpatch.playground.script import call, quoted
from attnpatch.playground.settings import Settings

__all__ = ["SmallModel"]

ANYTHING = "anything"
# Among the test items of the package: the first one of each of four classes.
_EXAMPLES = (0, 1, 13, 18)


class SmallModel:
    """Clothes of 32 × 32 pixels, from a class, a reference picture, or both.

    Examples
    --------
    >>> model = SmallModel()
    >>> prompt = model.image_prompt("boot.png", weight=0.8)
    >>> picture, attention = model.run([prompt], "bag")
    """

    title = "the small model in the package (Fashion-MNIST, 32 × 32 pixels)"
    texts = (ANYTHING, *CLASS_NAMES)
    defaults = Settings(text=ANYTHING, guidance=IMAGE_GUIDANCE, steps=STEPS, size=IMAGE_SIZE)
    reductions = SMALL_REDUCTIONS

    def __init__(self) -> None:
        self.pipeline = FashionPipeline.shipped()
        self.adapter = ap.load_image_adapter(
            store.SHIPPED / store.ADAPTER_FILE, dtype=torch.float32
        )
        self._encoder = store.load_encoder()

    @cached_property
    def table(self) -> LayerTable:
        """The UNet's layers."""
        return read_layer_table(diffusers_denoiser(self.pipeline))

    def examples(self) -> list[Image.Image]:
        """Give test items to begin with, which the model never saw."""
        shipped = store.load_references()
        return to_pictures(to_pixels(shipped.images[list(_EXAMPLES)]))

    @torch.inference_mode()
    def image_prompt(self, picture: Picture, **options: Any) -> ap.ImagePrompt:
        """Make an image prompt of a picture: the square in its middle, grey, light on dark.

        Parameters
        ----------
        picture
            What `attnpatch.pictures.read_picture` takes. A picture with light edges is inverted:
            the model knows clothes on black.
        **options
            The keyword arguments of `attnpatch.ImagePrompt`.
        """
        grey = square(Image.fromarray(read_picture(picture, "picture"))).convert("L")
        pixels = to_tensor([grey.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)])
        edges = torch.cat([pixels[..., 0, :], pixels[..., -1, :], pixels[..., 0], pixels[..., -1]])
        if edges.mean() > 0:
            pixels = -pixels
        embeds = self.adapter.get_image_embeds(self._encoder(pixels), combine=None)
        return ap.ImagePrompt(self.adapter, embeds, **options)

    def run(
        self,
        patches: Sequence[Patch],
        text: str = ANYTHING,
        *,
        guidance: float = IMAGE_GUIDANCE,
        steps: int = STEPS,
        seed: int = 0,
        on_step: Callable[[int, int], None] | None = None,
    ) -> tuple[Image.Image, torch.Tensor | None]:
        """Generate a picture.

        Parameters
        ----------
        patches : sequence of patches
            None at all: the model as it is.
        text : str
            A class's name, or "anything".
        guidance, steps, seed
            As of `Settings`.
        on_step : callable, optional
            Called as ``on_step(step, steps)`` after each step.

        Returns
        -------
        picture : PIL.Image.Image
            Grey, 32 × 32.
        attention : torch.Tensor or None
            What self-attention guidance recorded in the last step, (1, h, w).

        Raises
        ------
        ValueError
            For a class that the model does not know.
        """
        if text not in self.texts:
            raise ValueError(f"text: expected one of {', '.join(self.texts)}, got {text!r}")
        kind = NULL_CLASS if text == ANYTHING else CLASS_NAMES.index(text)
        arguments = (torch.tensor([kind]), make_noise(1, seed), guidance, steps, on_step)
        if not len(patches):
            return to_pictures(self.pipeline(*arguments))[0], None
        with ap.attach(self.pipeline, patches, cond_or_uncond=(1, 0)) as attached:
            pictures = to_pictures(self.pipeline(*arguments))
        return pictures[0], attached.attention

    def generate(
        self, patches: Sequence[Patch], settings: Settings, on_step: Callable[[int, int], None]
    ) -> tuple[Image.Image, torch.Tensor | None]:
        """Generate a picture as settings have it."""
        return self.run(
            patches,
            settings.text,
            guidance=settings.guidance,
            steps=settings.steps,
            seed=settings.seed,
            on_step=on_step,
        )

    def script_prompt(self, picture: str, options: Mapping[str, str]) -> str:
        """Write the call that makes an image prompt of a file."""
        return call("model.image_prompt", quoted(picture), **options)

    def script_parts(self, settings: Settings) -> tuple[list[str], list[str], list[str]]:
        """Write what a script imports, what it loads, and how it runs the stack."""
        run = call(
            "model.run",
            "stack",
            quoted(settings.text),
            guidance=repr(settings.guidance),
            steps=repr(settings.steps),
            seed=repr(settings.seed),
        )
        return (
            ["from attnpatch.playground.small_model import SmallModel"],
            ["model = SmallModel()"],
            [f"picture, attention = {run}"],
        )
