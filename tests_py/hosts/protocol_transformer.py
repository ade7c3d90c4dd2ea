# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A transformer of our own that calls its attention as ComfyUI's Flux does."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from protocol_sampling import ComfyModel, ComfyPatcher
from torch import nn

CONTEXT, HEADS, SIZE = 8, 2, 8
WIDTH = HEADS * SIZE


def attention_pytorch(
    q, k, v, heads, mask=None, attn_precision=None, skip_reshape=False, **options
):
    """The host's own attention, with its way to be taken over."""
    told = options.get("transformer_options") or {}
    override = told.get("optimized_attention_override")
    if override is not None and not options.pop("_inside_attn_wrapper", False):
        return override(
            *(attention_pytorch, q, k, v, heads),
            **{"mask": mask, "skip_reshape": skip_reshape, "_inside_attn_wrapper": True},
            **options,
        )
    assert skip_reshape
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Attention(nn.Module):
    num_heads = HEADS

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x, options):
        q, k, v = (
            y.unflatten(-1, (HEADS, SIZE)).transpose(1, 2) for y in self.qkv(x).chunk(3, dim=-1)
        )
        out = attention_pytorch(q, k, v, HEADS, skip_reshape=True, transformer_options=options)
        return x + self.proj(out)


class DoubleBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.img_attn = Attention()


class Executor:
    """Calls wrappers one in another, as the host does."""

    def __init__(self, original, class_obj, wrappers):
        self.original = original
        self.class_obj = class_obj
        self._wrappers = wrappers

    def __call__(self, *args, **kwargs):
        if not self._wrappers:
            return self.original(*args, **kwargs)
        rest = Executor(self.original, self.class_obj, self._wrappers[1:])
        return self._wrappers[0](rest, *args, **kwargs)


class Flux(nn.Module):
    """[text; image; references], two double blocks and one single one."""

    __module__ = "comfy.ldm.flux.model"
    patch_size = 2

    def __init__(self):
        super().__init__()
        self.img_in = nn.Linear(16, WIDTH)
        self.txt_in = nn.Linear(CONTEXT, WIDTH)
        self.double_blocks = nn.ModuleList(DoubleBlock() for _ in range(2))
        self.single_blocks = nn.ModuleList([Attention()])
        self.out = nn.Linear(WIDTH, 16)

    def forward(self, x, timestep, context, ref_latents=None, transformer_options=None, **kwargs):
        options = transformer_options or {}
        of_place = options.get("wrappers", {}).get("diffusion_model", {})
        wrappers = [wrapper for named in of_place.values() for wrapper in named]
        executor = Executor(self._forward, self, wrappers)
        return executor(x, timestep, context, ref_latents, options, **kwargs)

    def _forward(self, x, timestep, context, ref_latents=None, transformer_options=None, **kwargs):
        del timestep, kwargs
        options = dict(transformer_options or {})
        height, width = x.shape[2:]
        pictures = [x, *(ref.expand(len(x), -1, -1, -1) for ref in ref_latents or ())]
        parts = [F.pixel_unshuffle(p, 2).flatten(2).transpose(1, 2) for p in pictures]
        states = torch.cat([self.txt_in(context), *map(self.img_in, parts)], dim=1)
        text = context.shape[1]
        for kind, blocks in (("double", self.double_blocks), ("single", self.single_blocks)):
            for index, block in enumerate(blocks):
                options |= {"block_type": kind, "block_index": index}
                states = getattr(block, "img_attn", block)(states, options)
        image = states[:, text : text + height * width // 4]
        grid = self.out(image).transpose(1, 2).unflatten(2, (height // 2, width // 2))
        return F.pixel_shuffle(grid, 2)


def make_transformer(seed=0):
    """Build a host with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Flux().eval().requires_grad_(False)
    return ComfyPatcher(ComfyModel(network), "shared")


@torch.inference_mode()
def call(patcher, x, contexts, chunks=(1, 0), references=None, sigma=5.0):
    """Run the network once on the rows of all chunks."""
    options = dict(patcher.model_options["transformer_options"])
    sigmas = torch.full((len(x),), sigma)
    options |= {"cond_or_uncond": list(chunks), "sigmas": sigmas}
    context = torch.cat([contexts[chunk] for chunk in chunks])
    network = patcher.model.diffusion_model
    return network(
        torch.cat([x] * len(chunks)),
        sigmas.repeat(len(chunks)),
        context,
        ref_latents=references,
        transformer_options=options,
    )


def gained(network, x, contexts, chunks, references, gains):
    """What the network gives where the scores of joint attention have the logarithms of these."""
    original = F.scaled_dot_product_attention

    def attend(q, k, v):
        scores = q.double() @ k.double().transpose(2, 3) / math.sqrt(SIZE)
        return ((scores + gains.double()[:, None].log()).softmax(-1) @ v.double()).to(q.dtype)

    F.scaled_dot_product_attention = attend
    try:
        return call(network, x, contexts, chunks, references)
    finally:
        F.scaled_dot_product_attention = original
