# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""UNets of SD1.5's and SDXL's structure and width, with random weights, in the real ComfyUI.

Nothing here imports ComfyUI before it is asked for a model.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

CONTEXT = {"sd1": 768, "sdxl": 2048}
MULTIPLIERS = {"sd1": (1, 2, 4, 4), "sdxl": (1, 2, 4)}
WIDTH = 320


def depths(family: str, short: bool) -> list[int]:
    """Count the transformer blocks of each level; the last level's are in the middle as well."""
    if family == "sd1":
        return [1, 1, 1, 0]
    return [0, 1, 2] if short else [0, 2, 10]


def fill(module: nn.Module) -> None:
    """Give every parameter random values that keep activations of order one."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        bound = (3 / parameter[0].numel()) ** 0.5 if parameter.dim() > 1 else 0.1
        parameter.uniform_(-bound, bound, generator=generator)
        if parameter.dim() == 1:
            parameter += 1.0


def share_weights(unet: nn.Module) -> None:
    """Give the blocks of a stack one's weights: the same work, SDXL's in a third of the memory."""
    for stack in unet.modules():
        blocks = getattr(stack, "transformer_blocks", [])
        for block in blocks[1:]:
            for name, parameter in blocks[0].named_parameters():
                path, _, leaf = name.rpartition(".")
                setattr(block.get_submodule(path), leaf, parameter)


def load_comfyui(folder: Path) -> None:
    """Import ComfyUI for the CPU, with torch's own attention."""
    os.environ["ATTNPATCH_COMFYUI"] = str(folder)
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests_py/comfyui"))
    importlib.import_module("real_host")


def comfyui_model(family: str, short: bool = False, width: int = WIDTH) -> Any:
    """Make ComfyUI's ModelPatcher around a UNet; `short` has one residual block a level."""
    import comfy.model_patcher
    import comfy.supported_models

    levels, blocks = depths(family, short), 1 if short else 2
    kind = {"sd1": comfy.supported_models.SD15, "sdxl": comfy.supported_models.SDXL}[family]
    config = kind(
        {
            "image_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "model_channels": width,
            "channel_mult": list(MULTIPLIERS[family]),
            "num_res_blocks": [blocks] * len(levels),
            "transformer_depth": [n for n in levels for _ in range(blocks)],
            "transformer_depth_output": [n for n in levels for _ in range(blocks + 1)],
            "transformer_depth_middle": max(1, levels[-1]),
            "context_dim": CONTEXT[family],
            "use_linear_in_transformer": family == "sdxl",
            "adm_in_channels": 2816 if family == "sdxl" else None,
            "use_spatial_transformer": True,
            "use_checkpoint": False,
            "legacy": False,
            "use_temporal_attention": False,
            "use_temporal_resblock": False,
            "dtype": torch.float32,
        }
        | ({"num_classes": "sequential"} if family == "sdxl" else {})
    )
    heads = {"num_heads": 8, "num_head_channels": -1} if family == "sd1" else {}
    config.unet_config |= heads or {"num_heads": -1, "num_head_channels": 64}
    device = torch.device("cpu")
    model = config.get_model({}, "", device=device).eval().requires_grad_(False)
    share_weights(model.diffusion_model)
    fill(model.diffusion_model)
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=device)


def load_slothful(folder: Path) -> dict[str, type]:
    """Import the public pack comfyui_slothful_attention; gives its nodes by name."""
    spec = importlib.util.spec_from_file_location("slothful_pack", folder / "slothful_attention.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return dict(module.NODE_CLASS_MAPPINGS)


def apply_node(kind: type, model: Any, given: dict[str, Any]) -> Any:
    """Run one of that pack's nodes, with its defaults for what is not given."""
    inputs = kind.INPUT_TYPES()["required"].items()
    values = {n: e[1]["default"] if len(e) > 1 else e[0][0] for n, e in inputs if n != "model"}
    return getattr(kind(), kind.FUNCTION)(model=model, **(values | given))[0]
