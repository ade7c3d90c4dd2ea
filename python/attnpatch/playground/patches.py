# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""From settings to patches, each with the Python that makes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from PIL import Image
from torch import Tensor

import attnpatch as ap
from attnpatch.engine import LayerTable, Patch
from attnpatch.pictures import Picture
from attnpatch.playground.script import quoted
from attnpatch.playground.settings import PromptSettings, Settings, to_mask

__all__ = ["PlayModel", "make_patches", "mask_file", "picture_file"]


class PlayModel(Protocol):
    """A model that the playground runs: the one in the package, or a user's own."""

    title: str
    defaults: Settings

    @property
    def texts(self) -> tuple[str, ...]:
        """What the prompt may be; empty: any text."""
        ...

    @property
    def reductions(self) -> Mapping[str, Patch]:
        """Ways to fewer tokens, by name."""
        ...

    @property
    def table(self) -> LayerTable:
        """The UNet's layers."""
        ...

    def examples(self) -> list[Image.Image]:
        """Give pictures to begin with."""
        ...

    def image_prompt(self, picture: Picture, **options: Any) -> ap.ImagePrompt:
        """Make an image prompt of a picture."""
        ...

    def generate(
        self, patches: Sequence[Patch], settings: Settings, on_step: Callable[[int, int], None]
    ) -> tuple[Image.Image, Tensor | None]:
        """Generate a picture; and what guidance recorded in the last step, (1, h, w)."""
        ...

    def script_prompt(self, picture: str, options: Mapping[str, str]) -> str:
        """Write the call that makes an image prompt of a file."""
        ...

    def script_parts(self, settings: Settings) -> tuple[list[str], list[str], list[str]]:
        """Write what a script imports, what it loads, and how it runs the stack."""
        ...


def picture_file(place: int) -> str:
    """Name the file with the picture of an image prompt, counted from 0."""
    return f"reference-{place + 1}.png"


def mask_file(place: int) -> str:
    """Name the file with the mask of an image prompt, counted from 0."""
    return f"mask-{place + 1}.png"


def make_patches(model: PlayModel, settings: Settings) -> list[tuple[Patch, str]]:
    """Make the patches of settings, in order, each with the expression that makes it.

    Raises
    ------
    ValueError
        For a reduction that the model does not have, or weights over layers that it does not have.
    """
    patches: list[tuple[Patch, str]] = []
    for place, prompt in enumerate(settings.prompts):
        options = _options(prompt, place)
        values = {name: value for name, (value, _) in options.items()}
        written = {name: text for name, (_, text) in options.items()}
        code = model.script_prompt(picture_file(place), written)
        patches.append((model.image_prompt(prompt.picture, **values), code))
    others: list[Patch] = []
    if settings.sag:
        others.append(ap.SelfAttentionGuidance(settings.sag))
    if settings.pag:
        others.append(ap.PerturbedAttentionGuidance(settings.pag))
    if settings.reduction:
        if settings.reduction not in model.reductions:
            known = ", ".join(model.reductions)
            raise ValueError(f"reduction: expected one of {known}, got {settings.reduction!r}")
        others.append(model.reductions[settings.reduction])
    return [*patches, *((patch, f"ap.{patch!r}") for patch in others)]


def _options(prompt: PromptSettings, place: int) -> dict[str, tuple[Any, str]]:
    """List the arguments of an image prompt beside its picture, each with its text."""
    weight: tuple[Any, str] = (prompt.weight, repr(prompt.weight))
    if prompt.layers != "linear":
        written = f"ap.Weight({prompt.weight!r}, {quoted(prompt.layers)})"
        weight = (ap.Weight(prompt.weight, prompt.layers), written)
    options = {"weight": weight}
    if prompt.start > 0:
        options["start"] = (prompt.start, repr(prompt.start))
    if prompt.end < 1:
        options["end"] = (prompt.end, repr(prompt.end))
    if prompt.mask is not None:
        options["mask"] = (to_mask(prompt.mask), f"mask({quoted(mask_file(place))})")
    return options
