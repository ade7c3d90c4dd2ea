# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

import pytest
import torch

from attnpatch.demo.model import SCHEDULER_CONFIG
from attnpatch.demo.sample import make_noise, sample


def test_noise_of_a_picture_depends_on_its_own_seed():
    assert torch.equal(make_noise(3, 5)[1:], make_noise(2, 6))


@pytest.mark.parametrize("steps", [2, 10, 25])
def test_an_oracle_is_followed_to_the_picture(steps):
    from diffusers import DDIMScheduler

    alphas = DDIMScheduler(**SCHEDULER_CONFIG).alphas_cumprod
    target = torch.rand(2, 4, 16, 16, generator=torch.Generator().manual_seed(0)) * 1.8 - 0.9

    def oracle(latents, timestep):
        signal, spread = alphas[timestep].sqrt(), (1 - alphas[timestep]).sqrt()
        clean = target.repeat(2, 1, 1, 1)
        noise = (latents - signal * clean) / spread
        return signal * noise - spread * clean

    seen = []
    found = sample(oracle, make_noise(2, 0), 1.0, steps, lambda step, of: seen.append((step, of)))
    torch.testing.assert_close(found, target, rtol=0, atol=1e-3)
    assert seen == [(step, steps) for step in range(steps)]


def test_guidance_one_follows_the_cond_half_alone():
    def predict(latents, timestep):
        uncond, cond = latents.chunk(2)
        return torch.cat([torch.full_like(uncond, 7.0), 0.1 * cond])

    def cond_only(latents, timestep):
        return 0.1 * latents

    noise = make_noise(2, 3)
    torch.testing.assert_close(sample(predict, noise, 1.0, 4), sample(cond_only, noise, 1.0, 4))
