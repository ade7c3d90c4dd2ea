# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

import pytest
import torch

from attnpatch.demo.model import (
    CLASSES,
    EMBED_DIM,
    NULL_CLASS,
    decode_latents,
    encode_latents,
)
from fashion_mnist.denoiser import Denoiser, site_channels


@pytest.fixture(scope="module")
def denoiser():
    torch.manual_seed(0)
    return Denoiser().eval().requires_grad_(False)


def test_latents_are_exact():
    pixels = torch.rand(3, 1, 32, 32) * 2 - 1
    latents = encode_latents(pixels)
    assert latents.shape == (3, 4, 16, 16)
    assert torch.equal(decode_latents(latents), pixels)


def test_adapter_has_the_layout_of_published_checkpoints(denoiser):
    state = denoiser.adapter.state_dict()
    assert state["image_proj.proj.weight"].shape == (4 * 64, EMBED_DIM)
    assert state["image_proj.norm.weight"].shape == (64,)
    indices = sorted({int(key.split(".")[1]) for key in state if key.startswith("ip_adapter")})
    channels = site_channels(denoiser.unet)
    assert indices == list(range(1, 2 * len(channels), 2))
    for index, width in zip(indices, channels, strict=True):
        assert state[f"ip_adapter.{index}.to_k_ip.weight"].shape == (width, 64)
        assert state[f"ip_adapter.{index}.to_v_ip.weight"].shape == (width, 64)


def test_sites_stand_in_the_order_down_up_middle(denoiser):
    cross = [name for name in denoiser.unet.attn_processors if ".attn2." in name]
    order = [name.split("_")[0] for name in cross]
    assert order == ["down"] * 2 + ["up"] * 4 + ["mid"]


def test_each_row_follows_its_own_prompt(denoiser):
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, 4, 16, 16, generator=generator).expand(4, -1, -1, -1)
    embeds = torch.randn(4, EMBED_DIM, generator=generator)
    classes = torch.tensor([0, 0, CLASSES - 1, NULL_CLASS])
    weights = torch.tensor([0.0, 1.0, 1.0, 0.0])
    together = denoiser(latents, torch.tensor(500), classes, embeds, weights)
    for i in range(4):
        rows = slice(i, i + 1)
        alone = denoiser(
            latents[rows], torch.tensor(500), classes[rows], embeds[rows], weights[rows]
        )
        torch.testing.assert_close(together[rows], alone, rtol=1e-4, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-3
    assert (together[0] - together[3]).abs().max() > 1e-3


def test_weight_zero_is_no_image_prompt(denoiser):
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    classes = torch.tensor([3, 4])
    off = torch.zeros(2)
    first = denoiser(latents, torch.tensor(10), classes, torch.ones(2, EMBED_DIM), off)
    second = denoiser(latents, torch.tensor(10), classes, torch.zeros(2, EMBED_DIM), off)
    assert torch.equal(first, second)
