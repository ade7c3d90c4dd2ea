# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Small models with random weights for the real ComfyUI: SD1.5's and SDXL's structure, narrow.

Nothing here imports ComfyUI before it is asked for a model.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch

CONTEXT = {"sd1": 768, "sdxl": 2048}
EMBED = 64  # a square: the public pack pools tiles of embeddings as if they were pictures
HEAD_CHANNELS = 16
WIDTH = 32

_STRUCTURES = {
    "sd1": {
        "channel_mult": [1, 2, 4, 4],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1] * 9 + [0] * 3,
        "transformer_depth_middle": 1,
        "use_linear_in_transformer": False,
        "adm_in_channels": None,
    },
    "sdxl": {
        "channel_mult": [1, 2, 4],
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "transformer_depth_middle": 10,
        "use_linear_in_transformer": True,
        "num_classes": "sequential",
        "adm_in_channels": 2816,
    },
}
_CPU = torch.device("cpu")
_VISION = {
    "model_type": "clip_vision_model",
    "hidden_act": "gelu",
    "hidden_size": EMBED,
    "image_size": 224,
    "intermediate_size": 64,
    "layer_norm_eps": 1e-5,
    "num_attention_heads": 4,
    "num_channels": 3,
    "num_hidden_layers": 3,
    "patch_size": 14,
    "projection_dim": EMBED,
}


def noise(*shape, seed, scale=1.0):
    """Normal random numbers of a generator of their own."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def unet_config(family, dtype):
    """Return what ComfyUI finds out of a checkpoint of this structure."""
    structure = _STRUCTURES[family]
    return {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": WIDTH,
        "num_res_blocks": [2] * len(structure["channel_mult"]),
        "context_dim": CONTEXT[family],
        "use_spatial_transformer": True,
        "use_checkpoint": False,
        "legacy": False,
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
        "dtype": dtype,
        **structure,
    }


def make_model(family, dtype=torch.float32, seed=4, **config_changes):
    """Make a ModelPatcher around a UNet with narrow layers and random weights."""
    import comfy.model_patcher
    import comfy.supported_models

    kind = {"sd1": comfy.supported_models.SD15, "sdxl": comfy.supported_models.SDXL}[family]
    config = kind(unet_config(family, dtype))
    config.unet_config |= {"num_head_channels": HEAD_CHANNELS, "num_heads": -1} | config_changes
    model = config.get_model({}, "", device=_CPU)
    fill(model.diffusion_model, seed)
    model.eval().requires_grad_(False)
    return comfy.model_patcher.ModelPatcher(model, load_device=_CPU, offload_device=_CPU)


def make_clip_vision(seed=3, size=224):
    """Make the host's image encoder, narrow: hidden states and embeddings of EMBED values."""
    import comfy.clip_vision

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.json")
        path.write_text(json.dumps(_VISION | {"image_size": size}))
        encoder = comfy.clip_vision.ClipVisionModel(path)
    fill(encoder.model, seed)
    return encoder


def fill(module, seed):
    """Give every parameter random values that keep activations of order one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(values * parameter[0].numel() ** -0.5)
            else:
                parameter.copy_(0.1 * values + name.endswith("weight"))


def prompt(model, seed, **options):
    """Make one conditioning entry: 77 text tokens, and what SDXL wants besides."""
    context = model.model.model_config.unet_config["context_dim"]
    pooled = {"pooled_output": noise(1, 1280, seed=seed + 1)}
    return [noise(1, 77, context, seed=seed), pooled | options]
