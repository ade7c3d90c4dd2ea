# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""Sampling: deterministic DDIM with classifier-free guidance, in diffusers' order of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from attnpatch.demo.model import LATENT_CHANNELS, LATENT_SIZE, SCHEDULER_CONFIG

STEPS = 10
CLASS_GUIDANCE = 1.5
IMAGE_GUIDANCE = 1.2

# (2B, 4, 16, 16) noisy latents, uncond half first, and a timestep () -> the prediction of v.
Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def make_noise(count: int, seed: int) -> torch.Tensor:
    """Draw the starting noise (count, 4, 16, 16), each picture from its own seed."""
    generators = [torch.Generator().manual_seed(seed + i) for i in range(count)]
    shape = (LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])


@torch.inference_mode()
def sample(
    predict: Predict,
    noise: torch.Tensor,
    guidance: float,
    steps: int = STEPS,
    on_step: Callable[[int, int], None] | None = None,
    scheduler: Any = None,
) -> torch.Tensor:
    """Turn noise into latents.

    Parameters
    ----------
    predict : Predict
        Called once a step with the latents twice over: the uncond half, then the cond half.
    noise : torch.Tensor
        (B, 4, 16, 16), standard normal.
    guidance : float
        Classifier-free guidance scale; 1 follows the cond half alone.
    steps : int
    on_step : callable, optional
        Called as `on_step(step, steps)` after each step.
    scheduler : diffusers.DDIMScheduler, optional
        By default the one the model was trained for.

    Returns
    -------
    torch.Tensor
        Latents (B, 4, 16, 16).
    """
    from diffusers import DDIMScheduler

    scheduler = scheduler or DDIMScheduler(**SCHEDULER_CONFIG)
    scheduler.set_timesteps(steps, device=noise.device)
    latents = noise
    for step, timestep in enumerate(scheduler.timesteps):
        uncond, cond = predict(torch.cat([latents, latents]), timestep).chunk(2)
        velocity = uncond + guidance * (cond - uncond)
        latents = scheduler.step(velocity, timestep, latents).prev_sample
        if on_step is not None:
            on_step(step, steps)
    return latents
