# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The real ComfyUI on the CPU, with small UNets of SD1.5's and SDXL's structure and random weights.

Importing this module imports ComfyUI, which reads the command line and patches global state: only
processes that ``test_real_comfyui.py`` starts do so. ATTNPATCH_COMFYUI names the checkout.
"""

from __future__ import annotations

import os
import sys
import tempfile

import torch

_arguments, sys.argv = (
    sys.argv,
    [
        "main.py",
        "--cpu",
        "--use-pytorch-cross-attention",
        "--base-directory",
        tempfile.mkdtemp(),
    ],
)
sys.path.insert(0, os.environ["ATTNPATCH_COMFYUI"])
import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()
import comfy.model_management  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.samplers  # noqa: E402
import comfy.supported_models  # noqa: E402

sys.argv = _arguments

CONTEXT = {"sd1": 768, "sdxl": 2048}
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


def noise(*shape, seed, scale=1.0):
    """Normal random numbers of a generator of their own."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def unet_config(family, width=WIDTH):
    """Return what ComfyUI finds out of a checkpoint of this structure."""
    structure = _STRUCTURES[family]
    return {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": width,
        "num_res_blocks": [2] * len(structure["channel_mult"]),
        "context_dim": CONTEXT[family],
        "use_spatial_transformer": True,
        "use_checkpoint": False,
        "legacy": False,
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
        "dtype": torch.float32,
        **structure,
    }


def make_model(family, width=WIDTH, dtype=torch.float32, seed=4):
    """Make a ModelPatcher around a UNet with narrow layers and random weights."""
    kind = {"sd1": comfy.supported_models.SD15, "sdxl": comfy.supported_models.SDXL}[family]
    config = kind(unet_config(family, width) | {"dtype": dtype})
    config.unet_config |= {"num_head_channels": HEAD_CHANNELS, "num_heads": -1}
    model = config.get_model({}, "", device=_CPU)
    fill(model.diffusion_model, seed)
    model.eval().requires_grad_(False)
    return comfy.model_patcher.ModelPatcher(model, load_device=_CPU, offload_device=_CPU)


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


def sample(model, *, size=(16, 24), batch=1, steps=2, cfg=4.0, positive=None, negative=None):
    """Sample as the KSampler node does, from one noise; returns (batch, 4, *size)."""
    shape = batch, 4, *size
    with torch.inference_mode():
        return comfy.sample.sample(
            model,
            noise(*shape, seed=5),
            steps,
            cfg,
            "euler",
            "normal",
            [prompt(model, 6)] if positive is None else positive,
            [prompt(model, 8)] if negative is None else negative,
            torch.zeros(shape),
            disable_pbar=True,
            seed=9,
        ).clone()


def relative(ours, theirs):
    """Largest difference over largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())
