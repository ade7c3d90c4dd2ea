# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The pictures of a preview."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from attnpatch.engine import PatchStack
from attnpatch.hosts import attach, patch_model
from attnpatch.hosts.recognition import diffusers_denoiser

__all__ = ["Preview"]


class Preview:
    """Makes the pictures of a stack, on a copy of a pipeline."""

    def __init__(
        self,
        pipeline: Any,
        stack: PatchStack,
        generate: Callable[[Any, int], Any] | None,
        seed: int,
        arguments: dict[str, Any],
    ) -> None:
        self.twin = patch_model(pipeline, ())
        attach(self.twin, stack, replace=True)  # says at once what does not fit
        self.code = "generate(pipeline, steps)" if generate else _call_of(arguments, seed)
        """What makes the pictures, as code."""
        self._arguments = arguments
        self._generate = generate or self._call
        self._seed = seed
        if hasattr(self.twin, "set_progress_bar_config"):
            self.twin.set_progress_bar_config(disable=True)

    def __call__(self, stack: PatchStack, steps: int, check: Callable[[], None]) -> list[Any]:
        """Make pictures; ``check`` is called before each call of the model, and may raise."""
        attach(self.twin, stack, replace=True)
        denoiser = diffusers_denoiser(self.twin)
        hook = denoiser.register_forward_pre_hook(lambda *_: check(), prepend=True)
        try:
            made = self._generate(self.twin, steps)
        finally:
            hook.remove()
        return list(made) if isinstance(made, list | tuple) else [made]

    def _call(self, pipeline: Any, steps: int) -> Any:
        device = getattr(pipeline, "device", torch.device("cpu"))
        generator = torch.Generator(device).manual_seed(self._seed)
        given = {**self._arguments, "num_inference_steps": steps, "generator": generator}
        return pipeline(**given).images


def _call_of(arguments: dict[str, Any], seed: int) -> str:
    given = "".join(f"{name}={value!r}, " for name, value in arguments.items())
    return f"pipeline({given}generator=torch.Generator().manual_seed({seed})).images"
