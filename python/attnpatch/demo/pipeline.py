# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""A diffusers pipeline around the demo's networks: what `attnpatch` patches in the demo."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DiffusionPipeline

from attnpatch.demo import store
from attnpatch.demo.model import NULL_CLASS, SCHEDULER_CONFIG, ClassTokens, decode_latents
from attnpatch.demo.sample import STEPS, sample


class FashionPipeline(DiffusionPipeline):
    """Classes to pictures of clothes, with classifier-free guidance as other pipelines do it.

    Parameters
    ----------
    unet : diffusers.UNet2DConditionModel
    text : ClassTokens
    scheduler : diffusers.DDIMScheduler
    """

    def __init__(self, unet: Any, text: ClassTokens, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(unet=unet, text=text, scheduler=scheduler)
        self._guidance_scale = 1.0

    @classmethod
    def shipped(cls, folder: Path = store.SHIPPED) -> FashionPipeline:
        """Make the pipeline of the weights in a folder, by default those in the package."""
        scheduler = DDIMScheduler(**SCHEDULER_CONFIG)
        return cls(store.load_unet(folder), store.load_text(folder), scheduler)

    @property
    def guidance_scale(self) -> float:
        """The running call's guidance scale."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether a batch is [uncond, cond]: always, also at guidance 1."""
        return True

    @torch.inference_mode()
    def __call__(
        self,
        classes: torch.Tensor,
        noise: torch.Tensor,
        guidance_scale: float,
        num_inference_steps: int = STEPS,
        on_step: Callable[[int, int], None] | None = None,
    ) -> torch.Tensor:
        """Generate pictures.

        Parameters
        ----------
        classes : torch.Tensor
            int64, (B,); `NULL_CLASS` for no class.
        noise : torch.Tensor
            (B, 4, 16, 16), standard normal.
        guidance_scale : float
        num_inference_steps : int
        on_step : callable, optional
            Called as `on_step(step, steps)` after each step.

        Returns
        -------
        torch.Tensor
            (B, 1, 32, 32) in [-1, 1].

        Raises
        ------
        ValueError
            When classes and noise differ in number.
        """
        if len(classes) != len(noise):
            raise ValueError(f"noise: expected {len(classes)} rows as of classes, got {len(noise)}")
        self._guidance_scale = guidance_scale
        text = self.text(torch.cat([torch.full_like(classes, NULL_CLASS), classes]))

        def predict(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            return self.unet(latents, timestep, text, return_dict=False)[0]

        return decode_latents(
            sample(predict, noise, guidance_scale, num_inference_steps, on_step, self.scheduler)
        )
