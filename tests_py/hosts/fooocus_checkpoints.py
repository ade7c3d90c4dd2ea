# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Small checkpoints of image prompts as Fooocus downloads them."""

import torch

CONTEXT, HIDDEN, POOLED, TOKENS = 24, 32, 20, 4
CHANNELS = (16, 16, 32, 64)


def noise(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) / shape[-1] ** 0.5


def site_weights(seed=100):
    return {
        f"{2 * site + 1}.to_{letter}_ip.weight": noise(size, CONTEXT, seed=seed + 2 * site + place)
        for site, size in enumerate(CHANNELS)
        for place, letter in enumerate("kv")
    }


def linear_checkpoint():
    weights = {
        "proj.weight": noise(TOKENS * CONTEXT, POOLED, seed=1),
        "proj.bias": noise(TOKENS * CONTEXT, seed=2),
        "norm.weight": 1 + noise(CONTEXT, seed=3),
        "norm.bias": noise(CONTEXT, seed=4),
    }
    return {"image_proj": weights, "ip_adapter": site_weights()}


def plus_checkpoint(dim=64):
    shapes = {
        "latents": (1, TOKENS, dim),
        "proj_in.weight": (dim, HIDDEN),
        "proj_in.bias": (dim,),
        "proj_out.weight": (CONTEXT, dim),
        "proj_out.bias": (CONTEXT,),
        "norm_out.weight": (CONTEXT,),
        "norm_out.bias": (CONTEXT,),
        "layers.0.0.norm1.weight": (dim,),
        "layers.0.0.norm1.bias": (dim,),
        "layers.0.0.norm2.weight": (dim,),
        "layers.0.0.norm2.bias": (dim,),
        "layers.0.0.to_q.weight": (dim, dim),
        "layers.0.0.to_kv.weight": (2 * dim, dim),
        "layers.0.0.to_out.weight": (dim, dim),
        "layers.0.1.0.weight": (dim,),
        "layers.0.1.0.bias": (dim,),
        "layers.0.1.1.weight": (4 * dim, dim),
        "layers.0.1.3.weight": (dim, 4 * dim),
    }
    weights = {name: noise(*shape, seed=20 + i) for i, (name, shape) in enumerate(shapes.items())}
    return {"image_proj": weights, "ip_adapter": site_weights()}


def face_checkpoint():
    weights = {
        "proj.0.weight": noise(1024, 512, seed=1),
        "proj.0.bias": noise(1024, seed=2),
        "proj.2.weight": noise(TOKENS * CONTEXT, 1024, seed=3),
        "proj.2.bias": noise(TOKENS * CONTEXT, seed=4),
        "norm.weight": noise(CONTEXT, seed=5),
        "norm.bias": noise(CONTEXT, seed=6),
    }
    return {"image_proj": weights, "ip_adapter": site_weights()}
