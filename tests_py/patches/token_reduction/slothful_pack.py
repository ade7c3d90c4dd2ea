# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The public pack comfyui_slothful_attention, from a checkout of it, on one layer at a time."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from pack_cases import WIDTH, Case, plain_attention, project, steps
from torch import Tensor


class Model:
    """What the pack needs of a model: hooks, and its clock."""

    def __init__(self, timestep: int) -> None:
        config = SimpleNamespace(unet_config={"model_channels": WIDTH})
        clock = SimpleNamespace(timestep=lambda sigma: torch.tensor(timestep))
        self.model = SimpleNamespace(model_config=config, model_sampling=clock)
        self.output = lambda out, options: out

    def clone(self) -> Model:
        return self

    def set_model_attn1_patch(self, patch) -> None:
        self.input = patch

    def set_model_attn1_output_patch(self, patch) -> None:
        self.output = patch


def load(checkout: str | Path) -> ModuleType:
    path = Path(checkout, "slothful_attention.py")
    spec = importlib.util.spec_from_file_location("reference_slothful", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pack_outputs(pack: ModuleType, case: Case) -> list[Tensor]:
    """Return every layer's output with the pack's node."""
    node = pack.NODE_CLASS_MAPPINGS[type(case.patch).__name__]()
    ours_alone = ("seed", "compat")
    model = Model(case.timestep)
    node.patch_model(
        model, **{n: v for n, v in case.patch.state()[0].items() if n not in ours_alone}
    )
    outputs = []
    for site, heads, x, weights in steps(case):
        options = {
            "block": (site.layer.block, site.layer.number),
            "original_shape": (x.shape[0], 4, *case.latent),
            "sigmas": [torch.tensor(1.0)],
            "n_heads": heads,
        }
        q, k, v = project(model.input(x, x, x, options), weights)
        outputs.append(model.output(plain_attention(q, k, v, heads), options))
    return outputs
