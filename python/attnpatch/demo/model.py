# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""The demo's networks: a small UNet like Stable Diffusion's, its "text", and an encoder.

The "VAE" is a 2x2 pixel unshuffle: exact, fixed, and with four latent channels as SD has. The
"text" is a class: four learned tokens each, and a null class for guidance.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CONTEXT_DIM = 64
TEXT_TOKENS = 4
IMAGE_TOKENS = 4
CLASSES = 10
NULL_CLASS = CLASSES
EMBED_DIM = 192
LATENT_CHANNELS = 4
LATENT_SIZE = 16

# Head size 32 everywhere: UNet2DConditionModel's `attention_head_dim` is the number of heads.
UNET_CONFIG: dict[str, Any] = {
    "sample_size": LATENT_SIZE,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "layers_per_block": 1,
    "block_out_channels": (32, 64, 96),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": CONTEXT_DIM,
    "attention_head_dim": (1, 2, 3),
    "norm_num_groups": 8,
}
SCHEDULER_CONFIG: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "clip_sample": True,
    "timestep_spacing": "trailing",
    "set_alpha_to_one": True,
}


def make_unet() -> Any:
    """Make the `UNet2DConditionModel`, with random weights."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**UNET_CONFIG)


def encode_latents(pixels: torch.Tensor) -> torch.Tensor:
    """Turn pictures (B, 1, 32, 32) into latents (B, 4, 16, 16)."""
    return F.pixel_unshuffle(pixels, 2)


def decode_latents(latents: torch.Tensor) -> torch.Tensor:
    """Turn latents (B, 4, 16, 16) into pictures (B, 1, 32, 32), clamped to [-1, 1]."""
    return F.pixel_shuffle(latents, 2).clamp(-1.0, 1.0)


class ClassTokens(nn.Module):
    """The "text encoder": a class index to (B, 4, 64) tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CLASSES + 1, TEXT_TOKENS * CONTEXT_DIM)

    def forward(self, classes: torch.Tensor) -> torch.Tensor:
        """Look up int64 classes (B,), where `NULL_CLASS` means no class."""
        return self.embedding(classes).view(-1, TEXT_TOKENS, CONTEXT_DIM)


class ImageEncoder(nn.Module):
    """Pictures to embeddings (B, 192) with zero mean and unit variance; the demo's CLIP.

    Trained to classify and to reconstruct at once, so that an embedding says both what the item
    is and how it looks, and then frozen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 24, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(24, 48, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(48, 64, 3, stride=2, padding=1),
            nn.GELU(),
        )
        self.head = nn.Linear(64 * 4 * 4, EMBED_DIM)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode pictures (B, 1, 32, 32) in [-1, 1]."""
        hidden = self.features(pixels).flatten(1)
        return F.layer_norm(self.head(hidden), (EMBED_DIM,))
