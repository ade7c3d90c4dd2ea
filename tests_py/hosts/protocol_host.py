# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A small host of our own that calls patches as ComfyUI and Fooocus do.

A UNet of Stable Diffusion's structure at any width, a model patcher with three clone rules, and the
batching of cond and uncond chunks. Weights are random; what counts is who calls whom with what.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass, field

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


class CrossAttention(nn.Module):
    def __init__(self, channels, context_dim):
        super().__init__()
        self.heads = channels // HEAD_SIZE
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context_dim, channels, bias=False)
        self.to_v = nn.Linear(context_dim, channels, bias=False)
        self.to_out = nn.Sequential(nn.Linear(channels, channels), nn.Dropout(0.0))

    def forward(self, x, context, replace, options):
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        out = attention(q, k, v, self.heads) if replace is None else replace(q, k, v, options)
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
        handed_over |= {"n_heads": self.attn1.heads, "dim_head": HEAD_SIZE}
        block, index = options["block"], options["block_index"]

        def slot(kind):
            taken = options.get("patches_replace", {}).get(kind, {})
            return taken.get((*block, index), taken.get(block))

        y = self.norm1(x)
        x = x + self.attn1(y, y, slot("attn1"), handed_over)
        x = x + self.attn2(self.norm2(x), context, slot("attn2"), handed_over)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    def __init__(self, channels, depth, context_dim):
        super().__init__()
        self.norm = nn.GroupNorm(4, channels)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, context_dim) for _ in range(depth)
        )
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x, context, options):
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

    def forward(self, x, timesteps, context, transformer_options):
        options = transformer_options
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
        options["block"] = ("middle", 0)
        x = self.middle_block(x, emb, context, options)
        for number, block in enumerate(self.output_blocks):
            options["block"] = ("output", number)
            x = torch.cat([x, kept.pop()], dim=1)
            shape = kept[-1].shape[2:] if kept else None
            x = block(x, emb, context, options, shape)
        return self.out(x)


class ModelSampling:
    """Sigma and timestep on one straight line; enough to test who asks for what."""

    def timestep(self, sigma):
        return sigma * 100.0

    def percent_to_sigma(self, percent):
        return (1.0 - percent) * 9.99


class BaseModel(nn.Module):
    def __init__(self, diffusion_model):
        super().__init__()
        self.diffusion_model = diffusion_model
        self.model_sampling = ModelSampling()


def _copy_containers(value):
    """Copy dicts and lists, share all that they hold."""
    if isinstance(value, dict):
        return {key: _copy_containers(item) for key, item in value.items()}
    return [_copy_containers(item) for item in value] if isinstance(value, list) else value


CLONE_RULES = {
    "deepcopy": copy.deepcopy,  # Fooocus, and ComfyUI until early 2026
    "shared": _copy_containers,  # ComfyUI since then
    "aliased": dict,  # the worst case: nested dicts belong to parent and clone
}


@dataclass
class Patcher:
    """The part of a ModelPatcher that patches use."""

    model: BaseModel
    clone_rule: str = "deepcopy"
    model_options: dict = field(default_factory=lambda: {"transformer_options": {}})

    def clone(self):
        options = CLONE_RULES[self.clone_rule](self.model_options)
        return Patcher(self.model, self.clone_rule, options)

    def get_model_object(self, name):
        return getattr(self.model, name)

    def set_model_attn2_replace(self, patch, block, number, index=None):
        slots = self.model_options["transformer_options"]
        slots = slots.setdefault("patches_replace", {}).setdefault("attn2", {})
        slots[(block, number) if index is None else (block, number, index)] = patch

    def slots(self):
        """Return the attn2 replace slots: key -> callable."""
        options = self.model_options["transformer_options"]
        return options.get("patches_replace", {}).get("attn2", {})

    def model_patches_to(self, device):
        slots = self.slots()
        for key, patch in slots.items():
            if hasattr(patch, "to"):
                slots[key] = patch.to(device)

    @torch.inference_mode()
    def apply(self, x, sigma, contexts, chunks):
        """Run the UNet once.

        Parameters
        ----------
        x: (b, 4, H, W) latents; every chunk sees them all.
        sigma: the noise level, a float.
        contexts: {0: cond tokens (b, T, D), 1: uncond tokens}.
        chunks: cond_or_uncond, such as [1, 0]; the batch is len(chunks) * b rows.
        """
        sigmas = torch.full((x.shape[0],), sigma, dtype=torch.float32, device=x.device)
        timesteps = self.model.model_sampling.timestep(sigmas).repeat(len(chunks))
        context = torch.cat([contexts[chunk] for chunk in chunks])
        options = self.model_options["transformer_options"].copy()
        options |= {"cond_or_uncond": list(chunks), "sigmas": sigmas}
        unet = self.model.diffusion_model
        return unet(torch.cat([x] * len(chunks)), timesteps, context, options)

    def sample(self, x, contexts, steps=3, guidance=3.0):
        """Take a few Euler steps under classifier-free guidance; x starts as unit noise."""
        levels = torch.linspace(9.0, 0.0, steps + 1).tolist()
        x = x * levels[0]
        for sigma, lower in itertools.pairwise(levels):
            scaled = x / (1 + sigma**2) ** 0.5
            uncond, cond = self.apply(scaled, sigma, contexts, [1, 0]).chunk(2)
            x = x + (uncond + guidance * (cond - uncond)) * (lower - sigma)
        return x


def make_host(structure=SD1, width=16, *, seed=0, clone_rule="deepcopy", dtype=torch.float32):
    """Build a host with random weights, without touching torch's global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet(structure, width)
    return Patcher(BaseModel(unet.to(dtype).eval().requires_grad_(False)), clone_rule)


def make_inputs(structure, *, batch=1, size=(16, 16), seed=0, dtype=torch.float32):
    """Return latents and the cond and uncond contexts."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    contexts = {i: noise(batch, CONTEXT_TOKENS, structure.context_dim) for i in (0, 1)}
    return noise(batch, 4, *size), contexts
