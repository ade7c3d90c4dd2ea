# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes that stand in for ComfyUI's loaders, whose real files would be gigabytes."""

from __future__ import annotations

import zlib

import torch
from narrow_models import CONTEXT, make_clip_vision, make_model, noise


class Clip:
    """Makes text tokens of a text, the same ones every time."""

    def __init__(self, family):
        self.context = CONTEXT[family]

    def tokenize(self, text):
        return text

    def encode_from_tokens_scheduled(self, text):
        seed = zlib.crc32(text.encode())
        return [
            [noise(1, 77, self.context, seed=seed), {"pooled_output": noise(1, 1280, seed=seed)}]
        ]


class Vae:
    """Shows three channels of a latent."""

    def decode(self, latent):
        picture = torch.nn.functional.interpolate(latent[:, :3], scale_factor=8)
        return (picture / picture.abs().amax() / 2 + 0.5).movedim(1, -1)


class Checkpoint:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"ckpt_name": ("STRING", {})}})
    RETURN_TYPES = ("MODEL", "CLIP", "VAE")
    FUNCTION = "load"
    CATEGORY = "test"

    def load(self, ckpt_name):
        family = "sdxl" if "xl" in ckpt_name else "sd1"
        return make_model(family), Clip(family), Vae()


class ImageEncoder:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"clip_name": ("STRING", {})}})
    RETURN_TYPES = ("CLIP_VISION",)
    FUNCTION = "load"
    CATEGORY = "test"

    def load(self, clip_name):
        return (make_clip_vision(),)


NODE_CLASS_MAPPINGS = {"TinyCheckpoint": Checkpoint, "TinyImageEncoder": ImageEncoder}
