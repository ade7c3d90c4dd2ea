# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes that stand in for ComfyUI's loaders, whose real files would be gigabytes.

Tokenizers are the host's own, so that words stand where they would; what encoders make of them is
random, the same for the same tokens.
"""

from __future__ import annotations

import zlib
from importlib import import_module

import torch
from narrow_models import CONTEXT, make_clip_vision, make_model, noise
from narrow_transformers import CASES, make_transformer

# For each family the host's tokenizer, the encoder whose tokens the model is given, how many of
# those its text encoder drops in front, and the size of what is pooled.
TOKENIZERS = {
    "sd1": ("sd1_clip", "SD1Tokenizer", "l", 0, 768),
    "sdxl": ("sdxl_clip", "SDXLTokenizer", "g", 0, 1280),
    "flux": ("text_encoders.flux", "FluxTokenizer", "t5xxl", 0, 12),
    "klein": ("text_encoders.flux", "KleinTokenizer", "qwen3_4b", 0, 12),
    "qwen": ("text_encoders.qwen_image", "QwenImageTokenizer", "qwen25_7b", 34, 12),
}
TRANSFORMERS = {
    "flux1-dev.safetensors": "flux",
    "flux-2-klein-4b.safetensors": "klein",
    "qwen_image_edit_2509.safetensors": "qwen",
}
TEXT_ENCODERS = {"flux": "flux", "flux2": "klein", "qwen_image": "qwen"}
# Channels of the latent, pixels of a latent's pixel, and whether it has frames.
VAES = {
    "ae.safetensors": (16, 8, False),
    "flux2-vae.safetensors": (128, 16, False),
    "qwen_image_vae.safetensors": (16, 8, True),
}


class Clip:
    """The host's tokenizer, and random text of as many tokens as the real encoder's."""

    def __init__(self, family):
        module, kind, self.name, self.dropped, self.pooled = TOKENIZERS[family]
        self.tokenizer = getattr(import_module(f"comfy.{module}"), kind)()
        self.context = CONTEXT.get(family) or CASES[family].context

    def tokenize(self, text, **options):
        return self.tokenizer.tokenize_with_weights(text, **options)

    def encode_from_tokens_scheduled(self, tokens):
        count = sum(map(len, tokens[self.name])) - self.dropped
        seed = zlib.crc32(
            str([entry[0] for chunk in tokens[self.name] for entry in chunk]).encode()
        )
        pooled = {"pooled_output": noise(1, self.pooled, seed=seed)}
        return [[noise(1, count, self.context, seed=seed), pooled]]


class Vae:
    """Shows three channels of a latent, and makes one of a picture."""

    def __init__(self, channels=4, factor=8, frames=False):
        self.channels, self.factor, self.frames = channels, factor, frames

    def decode(self, latent):
        if self.frames:
            latent = latent[:, :, 0]
        picture = torch.nn.functional.interpolate(latent[:, :3], scale_factor=self.factor)
        return (picture / picture.abs().amax() / 2 + 0.5).movedim(1, -1)

    def encode(self, pixels):
        small = torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1).mean(1), self.factor)
        latent = small[:, None] * noise(1, self.channels, 1, 1, seed=3)
        return latent[:, :, None] if self.frames else latent


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


def _there():
    """The names of transformers that this host has."""
    known = import_module("comfy.supported_models")
    return [name for name, case in TRANSFORMERS.items() if hasattr(known, CASES[case].model)]


class Transformer:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"unet_name": (_there(), {})}})
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "load"
    CATEGORY = "test"

    def load(self, unet_name):
        return (make_transformer(CASES[TRANSFORMERS[unet_name]]),)


class TextEncoder:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"type": (list(TEXT_ENCODERS), {})}})
    RETURN_TYPES = ("CLIP",)
    FUNCTION = "load"
    CATEGORY = "test"

    def load(self, type):  # as the host's loader names it
        return (Clip(TEXT_ENCODERS[type]),)


class VaeLoader:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"vae_name": (list(VAES), {})}})
    RETURN_TYPES = ("VAE",)
    FUNCTION = "load"
    CATEGORY = "test"

    def load(self, vae_name):
        return (Vae(*VAES[vae_name]),)


NODE_CLASS_MAPPINGS = {
    "TinyCheckpoint": Checkpoint,
    "TinyImageEncoder": ImageEncoder,
    "TinyTransformer": Transformer,
    "TinyTextEncoder": TextEncoder,
    "TinyVae": VaeLoader,
}
