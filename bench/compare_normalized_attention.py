# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What normalized attention guidance costs in SDXL's transformer blocks, against the plain ones.

A UNet of diffusers with one transformer block for each of SDXL's two widths, at full width, with
random weights; plain and patched calls take turns. The CPU time, by one thread, is weighed by how
many blocks SDXL has of each: 10 of 640 channels and 60 of 1280. The guidance acts in
cross-attention alone, so what it adds there is told against the whole blocks' plain time: the
noise of all else, which is most of a block, does not enter. Convolutions are left out (something
of the right shape stands for what they give): they come on top of the plain time, so that the
share of a whole step is smaller. A minute and a half of one core.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from wide_models import fill

import attnpatch as ap

COUNTS = {640: 10, 1280: 60}
CONTEXT, TOKENS = 2048, 77


class NoConvolution(nn.Module):
    """Gives something of a convolution's shape, at no cost."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self._channels = convolution.out_channels
        self._stride = int(convolution.stride[0])

    def forward(self, x: Tensor) -> Tensor:
        """Take its channels again and again, and every pixel at the stride."""
        times = -(-self._channels // x.shape[1])
        return x.repeat(1, times, 1, 1)[:, : self._channels, :: self._stride, :: self._stride]


def make_unet() -> Any:
    """Make the UNet; its middle and its narrowest levels have the two kinds of blocks."""
    from diffusers import UNet2DConditionModel

    config: dict[str, Any] = {
        "block_out_channels": (320, 640, 1280),
        "layers_per_block": 1,
        "cross_attention_dim": CONTEXT,
        "transformer_layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("UpBlock2D",) * 3,
        "mid_block_type": None,
        "attention_head_dim": [5, 10, 20],
        "use_linear_projection": True,
    }
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    for module in list(unet.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Conv2d):
                setattr(module, name, NoConvolution(child))
    unet = unet.to_empty(device="cpu").eval().requires_grad_(False)
    fill(unet)
    return unet


class Times:
    """CPU seconds of all modules of a kind in one call, weighed by SDXL's numbers of blocks."""

    def __init__(self, modules: Iterable[nn.Module], width: Callable[[Any], int]) -> None:
        self._begun = 0.0
        self._width = width
        self._seconds = 0.0
        for module in modules:
            module.register_forward_pre_hook(self._begin)
            module.register_forward_hook(self._end)

    def _begin(self, module: nn.Module, args: object) -> None:
        self._begun = time.process_time()

    def _end(self, module: nn.Module, args: object, output: object) -> None:
        self._seconds += COUNTS[self._width(module)] * (time.process_time() - self._begun)

    def take(self) -> float:
        """Return the sum, and begin anew."""
        total, self._seconds = self._seconds, 0.0
        return total


@torch.inference_mode()
def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latent", type=int, nargs="+", default=[128], help="its side")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    unet = make_unet()
    blocks = [m for m in unet.modules() if type(m).__name__ == "BasicTransformerBlock"]
    whole = Times(blocks, lambda block: int(block.norm1.normalized_shape[0]))
    crossing = Times((block.attn2 for block in blocks), lambda attention: int(attention.query_dim))
    patch = ap.NormalizedAttentionGuidance(torch.randn(1, TOKENS, CONTEXT))
    print(
        "| latent | rows | plain, s | with the guidance (each round) |\n| --- | --- | --- | --- |"
    )
    for side in args.latent:
        for kinds in ((0,), (1, 0)):
            inputs = {
                "sample": torch.randn(len(kinds), 4, side, side),
                "timestep": torch.tensor(500),
                "encoder_hidden_states": torch.randn(len(kinds), TOKENS, CONTEXT),
            }
            plain, added = [], []
            for number in range(args.rounds + 1):
                unet(**inputs)
                block, before = whole.take(), crossing.take()
                with ap.attach(unet, patch, cond_or_uncond=kinds):
                    unet(**inputs)
                    ours = crossing.take()
                    whole.take()
                if number:  # the first warms up
                    plain.append(block)
                    added.append(ours - before)
            names = " and ".join("cond" if kind == 0 else "uncond" for kind in kinds)
            step = statistics.median(plain)
            cost = 100 * statistics.median(added) / step
            rounds = ", ".join(f"{100 * seconds / step:+.1f}" for seconds in sorted(added))
            print(
                f"| {side} x {side} | {names} | {step:.1f} | {cost:+.1f} % ({rounds}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()
