# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A UNet of Stable Diffusion's structure at any width, which calls patches as ComfyUI does.

Weights are random; what counts is who calls whom with what.
"""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

HEAD_SIZE = 8
CONTEXT_TOKENS = 7


@dataclass(frozen=True)
class Structure:
    """Depths of the spatial transformers of each level, as SD1.x and SDXL have them."""

    levels: tuple[tuple[int, int], ...]  # (width multiplier, transformer depth), two blocks each
    middle_depth: int
    context_dim: int = 24

    def sites(self) -> list[tuple[tuple[str, int, int], int, int]]:
        """Return (key, multiplier, level) of every cross-attention in checkpoint order."""
        inputs, outputs = [], []
        number = 1
        for level, (multiplier, depth) in enumerate(self.levels):
            for _ in range(2):
                inputs += [(("input", number, i), multiplier, level) for i in range(depth)]
                number += 1
            number += 1  # the block that halves the grid
        number = 0
        for level, (multiplier, depth) in reversed(list(enumerate(self.levels))):
            for _ in range(3):
                outputs += [(("output", number, i), multiplier, level) for i in range(depth)]
                number += 1
        last = len(self.levels) - 1
        middle = [(("middle", 0, i), self.levels[-1][0], last) for i in range(self.middle_depth)]
        return inputs + outputs + middle


SD1 = Structure(levels=((1, 1), (2, 1), (4, 1), (4, 0)), middle_depth=1)
SDXL = Structure(levels=((1, 0), (2, 2), (4, 10)), middle_depth=10)


def attention(q, k, v, heads):
    """Attend plainly: q (B, N, C), k and v (B, T, C)."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)


def optimized_attention(q, k, v, heads, mask=None, attn_precision=None, transformer_options=None):
    """Attend as the host's user chose: for a model by an override, else plainly."""
    override = (transformer_options or {}).get("optimized_attention_override")
    if override is not None:
        return override(attention, q, k, v, heads)
    return attention(q, k, v, heads)


optimized_attention.__name__ = "attention_pytorch"


def host_attention():
    """Return the function that the host attends with; tests put their own in its place."""
    module = sys.modules.get("comfy.ldm.modules.attention")
    return optimized_attention if module is None else module.optimized_attention


class CrossAttention(nn.Module):
    def __init__(self, channels, context_dim):
        super().__init__()
        self.heads = channels // HEAD_SIZE
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context_dim, channels, bias=False)
        self.to_v = nn.Linear(context_dim, channels, bias=False)
        self.to_out = nn.Sequential(nn.Linear(channels, channels), nn.Dropout(0.0))

    def forward(self, x, context, value, replace, options):
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(value)
        if replace is None:
            out = host_attention()(q, k, v, self.heads, transformer_options=options)
        else:
            out = replace(q, k, v, options)
        return self.to_out(out)


class TransformerBlock(nn.Module):
    def __init__(self, channels, context_dim):
        super().__init__()
        self.attn1 = CrossAttention(channels, channels)
        self.attn2 = CrossAttention(channels, context_dim)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(3))
        self.ff = nn.Sequential(nn.Linear(channels, 2 * channels), nn.GELU())
        self.ff.append(nn.Linear(2 * channels, channels))

    def forward(self, x, context, options):
        handed_over = {k: v for k, v in options.items() if k not in ("patches", "patches_replace")}
        handed_over |= {"n_heads": self.attn1.heads, "dim_head": HEAD_SIZE, "attn_precision": None}
        patches, block = options.get("patches", {}), options["block"]

        def slot(kind):
            taken = options.get("patches_replace", {}).get(kind, {})
            return taken.get((*block, options["block_index"]), taken.get(block))

        def attend(kind, n, context):
            value = context
            for patch in patches.get(f"{kind}_patch", ()):
                n, context, value = patch(n, context, value, handed_over)
            n = getattr(self, kind)(n, context, value, slot(kind), handed_over)
            for patch in patches.get(f"{kind}_output_patch", ()):
                n = patch(n, handed_over)
            return n

        y = self.norm1(x)
        x = x + attend("attn1", y, y)
        for patch in patches.get("middle_patch", ()):
            x = patch(x, handed_over)
        x = x + attend("attn2", self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    tells_shape = True  # as hosts do since 2025

    def __init__(self, channels, depth, context_dim):
        super().__init__()
        self.norm = nn.GroupNorm(4, channels)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, context_dim) for _ in range(depth)
        )
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x, context, options):
        if self.tells_shape:
            options["activations_shape"] = list(x.shape)
        y = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))
        for index, block in enumerate(self.transformer_blocks):
            options["block_index"] = index
            y = block(y, context, options)
        options["transformer_index"] += 1
        return x + self.proj_out(y).transpose(1, 2).unflatten(2, x.shape[2:])


class ResBlock(nn.Module):
    def __init__(self, channels, out_channels, time_channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.time = nn.Linear(time_channels, out_channels)
        self.skip = nn.Conv2d(channels, out_channels, 1)

    def forward(self, x, emb):
        return self.skip(x) + self.conv(F.silu(x)) + self.time(emb)[:, :, None, None]


class Downsample(nn.Conv2d):
    def __init__(self, channels):
        super().__init__(channels, channels, 3, stride=2, padding=1)


class Upsample(nn.Conv2d):
    def __init__(self, channels):
        super().__init__(channels, channels, 3, padding=1)


class Block(nn.ModuleList):
    def forward(self, x, emb, context, options, shape=None):
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb)
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, context, options)
            elif isinstance(layer, Upsample):
                x = layer(F.interpolate(x, size=shape))
            else:
                x = layer(x)
        return x


class UNet(nn.Module):
    """A UNet with Stable Diffusion's names and numbering of blocks."""

    wraps = True  # as hosts do since late 2024

    def __init__(self, structure, width):
        super().__init__()
        self.time_embed = nn.Linear(width, 4 * width)
        self.width = width
        head = nn.Conv2d(4, width, 3, padding=1)
        self.input_blocks = nn.ModuleList([Block([head])])
        channels, skips = width, [width]

        def layers(multiplier, depth, incoming):
            built = [ResBlock(incoming, multiplier * width, 4 * width)]
            if depth:
                built.append(SpatialTransformer(multiplier * width, depth, structure.context_dim))
            return built

        for level, (multiplier, depth) in enumerate(structure.levels):
            for _ in range(2):
                self.input_blocks.append(Block(layers(multiplier, depth, channels)))
                channels = multiplier * width
                skips.append(channels)
            if level + 1 < len(structure.levels):
                self.input_blocks.append(Block([Downsample(channels)]))
                skips.append(channels)
        middle = layers(structure.levels[-1][0], structure.middle_depth, channels)
        self.middle_block = Block([*middle, ResBlock(channels, channels, 4 * width)])
        self.output_blocks = nn.ModuleList()
        for level, (multiplier, depth) in reversed(list(enumerate(structure.levels))):
            for number in range(3):
                built = layers(multiplier, depth, channels + skips.pop())
                channels = multiplier * width
                if number == 2 and level > 0:
                    built.append(Upsample(channels))
                self.output_blocks.append(Block(built))
        self.out = nn.Conv2d(channels, 4, 3, padding=1)

    def forward(self, *args, **kwargs):
        """Run what others put around the call, then the UNet itself."""
        options = kwargs["transformer_options"] if "transformer_options" in kwargs else args[5]
        wrappers = options.get("wrappers", {}).get("diffusion_model", {}) if self.wraps else {}
        call = self._forward
        for wrapper in reversed([w for ws in wrappers.values() for w in ws]):
            call = functools.partial(wrapper, call)
        return call(*args, **kwargs)

    def _forward(self, x, timesteps, context, y=None, control=None, transformer_options=None):
        options = transformer_options
        patches = options.get("patches", {})
        self.current_step = 1.0 - timesteps.to(x) / 999.0
        options["original_shape"] = list(x.shape)
        options["transformer_index"] = 0
        angles = timesteps.to(x)[:, None] / 1000 * torch.arange(1, self.width + 1, device=x.device)
        emb = self.time_embed(angles.sin())
        kept = []
        for number, block in enumerate(self.input_blocks):
            options["block"] = ("input", number)
            x = block(x, emb, context, options)
            kept.append(x)
            for patch in patches.get("input_block_patch_after_skip", ()):
                x = patch(x, options)
        options["block"] = ("middle", 0)
        if self.middle_block is not None:
            x = self.middle_block(x, emb, context, options)
        for number, block in enumerate(self.output_blocks):
            options["block"] = ("output", number)
            skip = kept.pop()
            for patch in patches.get("output_block_patch", ()):
                x, skip = patch(x, skip, options)
            x = torch.cat([x, skip], dim=1)
            shape = kept[-1].shape[2:] if kept else None
            x = block(x, emb, context, options, shape)
        return self.out(x)
