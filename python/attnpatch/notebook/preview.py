# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The pictures of a preview, and the call that makes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch

from attnpatch.engine import PatchStack
from attnpatch.hosts import attach, patch_model
from attnpatch.hosts.recognition import diffusers_denoiser
from attnpatch.notebook.writing import Writer
from attnpatch.pictures import Picture, Pictures

__all__ = ["Generate", "Preview"]

Generate = Callable[[Any, int], Pictures]
"""``generate(pipeline, steps)`` makes pictures."""
STEPS = "num_inference_steps"


class Preview:
    """Makes the pictures of a stack, on a copy of a pipeline.

    Parameters
    ----------
    pipeline
        Of diffusers.
    stack : PatchStack
        What fits it, or an error says what does not.
    generate : callable or None
        None: the pipeline is called with `arguments`.
    seed : int
        Of the noise, where no generator is among the arguments.
    arguments : mapping of str
        Of the pipeline.
    """

    def __init__(
        self,
        pipeline: Any,
        stack: PatchStack,
        generate: Generate | None,
        seed: int,
        arguments: Mapping[str, Any],
    ) -> None:
        self.twin = patch_model(pipeline, ())
        attach(self.twin, stack, replace=True)  # says at once what does not fit
        self._generate = generate
        self._arguments = {name: one for name, one in arguments.items() if name != STEPS}
        self.final_steps: int | None = arguments.get(STEPS)
        """How many steps a picture is to have that is no preview; None: as many as a preview."""
        if arguments.get("generator") is None:
            self._arguments["generator"] = torch.Generator().manual_seed(seed)
        self._noise = _copied(self._arguments["generator"])
        if hasattr(self.twin, "set_progress_bar_config"):
            self.twin.set_progress_bar_config(disable=True)

    def __call__(self, stack: PatchStack, steps: int, check: Callable[[], None]) -> list[Picture]:
        """Make pictures; ``check`` is called before each call of the model, and may raise."""
        attach(self.twin, stack, replace=True)
        denoiser = diffusers_denoiser(self.twin)
        hook = denoiser.register_forward_pre_hook(lambda *_: check(), prepend=True)
        try:
            made = (self._generate or self._call)(self.twin, steps)
        finally:
            hook.remove()
        return list(made) if isinstance(made, list | tuple) else [cast(Picture, made)]

    def code(self, writer: Writer, pipeline: str, steps: int) -> str:
        """Write the call that makes the picture with the pipeline of a name."""
        if self._generate is not None:
            return f"{writer.name(self._generate, 'generate')}({pipeline}, {steps})"
        given = {name: writer.write(one, name) for name, one in self._rest().items()}
        given[STEPS] = str(self.final_steps or steps)
        given["generator"] = _noise_code(writer, self._noise, self._arguments["generator"])
        arguments = ", ".join(f"{name}={text}" for name, text in given.items())
        return f"{pipeline}({arguments}).images"

    def _rest(self) -> dict[str, Any]:
        return {name: one for name, one in self._arguments.items() if name != "generator"}

    def _call(self, pipeline: Any, steps: int) -> Pictures:
        given = {**self._rest(), STEPS: steps, "generator": _copied(self._noise)}
        made = pipeline(**given)
        if not hasattr(made, "images"):
            raise TypeError(
                f"pipeline: expected it to give images, got {type(made).__name__}; "
                "give generate=, which makes pictures"
            )
        return made.images


Noise = torch.Generator | list[torch.Generator]


def _copied(noise: Noise) -> Noise:
    """Copy a generator, or several, as they are now: a run moves the copy."""
    if isinstance(noise, torch.Generator):
        return noise.clone_state()
    return [one.clone_state() for one in noise]


def _noise_code(writer: Writer, noise: Noise, given: Noise) -> str:
    """Write what makes a generator: its seed, where it has given nothing yet, else its name."""
    if not isinstance(noise, torch.Generator):
        assert not isinstance(given, torch.Generator)
        texts = (_noise_code(writer, *pair) for pair in zip(noise, given, strict=True))
        return f"[{', '.join(texts)}]"
    fresh = torch.Generator(noise.device).manual_seed(noise.initial_seed())
    if not torch.equal(fresh.get_state(), noise.get_state()):
        return f"{writer.name(given, 'generator')}.clone_state()"
    writer.bring("torch")
    device = "" if noise.device.type == "cpu" else repr(str(noise.device))
    return f"torch.Generator({device}).manual_seed({noise.initial_seed()})"
