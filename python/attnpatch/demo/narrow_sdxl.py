# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""A model of SDXL's structure and an InstantID adapter for it: narrow, with random weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attnpatch.adapters import ImageAdapter, as_identity_adapter
from attnpatch.hosts.diffusers import read_layer_table

__all__ = ["make_adapter", "make_inputs", "make_unet"]

CONTEXT, WIDTH = 64, 32  # SDXL: 2048 and 320
SIDE = 48  # of the latents
# What ends a residual branch, and how much it adds: as in trained models, layers change states a
# little, so that what reaches a place stays there.
_ENDS = ("conv2.", "to_out.", "ff.net.2.")
_BRANCH = 0.15


def make_unet() -> Any:
    """Make a UNet of diffusers with SDXL's tree of layers: 70 cross-attentions."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):  # its own way to fill weights takes longer than all the rest
        unet = UNet2DConditionModel(
            sample_size=SIDE,
            block_out_channels=(WIDTH, 2 * WIDTH, 4 * WIDTH),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=2,
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(1, 2, 4),
            cross_attention_dim=CONTEXT,
            use_linear_projection=True,
        )
    unet = unet.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for name, parameter in unet.named_parameters():
        values = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            gentle = _BRANCH if any(part in name for part in _ENDS) else 1.0
            values *= gentle * parameter[0].numel() ** -0.5
        elif "norm" in name and name.endswith("weight"):
            values = 1 + 0.1 * values
        else:
            values *= 0.1
        parameter.data.copy_(values)
    return unet.eval().requires_grad_(False)


def make_inputs() -> dict[str, Any]:
    """Make what a step takes: one noise for [uncond, cond], and two texts."""
    generator = torch.Generator().manual_seed(1)
    return {
        "sample": torch.randn(1, 4, SIDE, SIDE, generator=generator).repeat(2, 1, 1, 1),
        "timestep": 500,
        "encoder_hidden_states": torch.randn(2, 77, CONTEXT, generator=generator),
    }


def make_adapter(unet: Any) -> ImageAdapter:
    """Make an adapter of InstantID's structure for a UNet: 16 tokens of a face embedding."""
    weights = _Weights()
    dim = CONTEXT
    projection = {"latents": weights.random(1, 16, dim)}
    projection |= weights.linear("proj_in", dim, 512, bias=True)
    projection |= weights.linear("proj_out", dim, dim, bias=True) | weights.norm("norm_out", dim)
    for depth in range(4):
        attention, forward = f"layers.{depth}.0", f"layers.{depth}.1"
        projection |= weights.norm(f"{attention}.norm1", dim) | weights.norm(
            f"{attention}.norm2", dim
        )
        projection |= weights.linear(f"{attention}.to_q", 64, dim)
        projection |= weights.linear(f"{attention}.to_kv", 128, dim)
        projection |= weights.linear(f"{attention}.to_out", dim, 64)
        projection |= weights.norm(f"{forward}.0", dim)
        projection |= weights.linear(f"{forward}.1", 4 * dim, dim)
        projection |= weights.linear(f"{forward}.3", dim, 4 * dim)
    sites: dict[str, Tensor] = {}
    for number, layer in enumerate(read_layer_table(unet)):
        for letter in "kv":
            sites |= weights.linear(f"{2 * number + 1}.to_{letter}_ip", layer.channels, CONTEXT)
    return as_identity_adapter({"image_proj": projection, "ip_adapter": sites})


class _Weights:
    """Random weights of a generator of their own."""

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(2)

    def random(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator)

    def linear(self, name: str, rows: int, columns: int, bias: bool = False) -> dict[str, Tensor]:
        tensors = {f"{name}.weight": self.random(rows, columns) / columns**0.5}
        return tensors | ({f"{name}.bias": torch.zeros(rows)} if bias else {})

    def norm(self, name: str, size: int) -> dict[str, Tensor]:
        return {f"{name}.weight": torch.ones(size), f"{name}.bias": torch.zeros(size)}
