# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Small models with random weights and the true structure of the large ones."""

import itertools
import math

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0

from attnpatch.adapters import load_image_adapter
from attnpatch.patches import ImagePrompt

SD1 = {
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 2,
}
SDXL = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 10),
}
CONTEXT = 64


def make_unet(structure="sd1", *, context=CONTEXT, seed=0, **changes):
    """SD1.5's, SD2's or SDXL's tree of layers, with 16 to 32 channels."""
    config = dict(SDXL if structure == "sdxl" else SD1)
    levels = len(config["down_block_types"])
    config |= {
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (16, 32, 32, 32)[:levels],
        "attention_head_dim": 2,
        "norm_num_groups": 4,
        "cross_attention_dim": context,
    }
    if structure in ("sd2", "sdxl"):
        config |= {"use_linear_projection": True, "attention_head_dim": (1, 2, 2, 2)[:levels]}
    if structure == "sdxl":
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + CONTEXT,
        }
    generator = torch.random.get_rng_state()
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(**(config | changes)).eval().requires_grad_(False)
    torch.random.set_rng_state(generator)
    return unet


def unet_inputs(unet, batch=2, size=(16, 16), tokens=7, seed=1, dtype=torch.float32):
    """The keyword arguments of a call."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    inputs = {
        "sample": noise(batch, 4, *size),
        "timestep": torch.tensor(500),
        "encoder_hidden_states": noise(batch, tokens, unet.config.cross_attention_dim),
    }
    if unet.config.addition_embed_type == "text_time":
        inputs["added_cond_kwargs"] = {
            "text_embeds": noise(batch, CONTEXT),
            "time_ids": torch.full((batch, 6), 16.0).to(dtype),
        }
    return inputs


def make_adapter_state(unet, kind, *, seed=2):
    """A checkpoint of IP-Adapter's layout for `unet`, as a state dict with random weights."""
    generator = torch.Generator().manual_seed(seed)

    def weight(*shape):
        return torch.randn(*shape, generator=generator) / math.sqrt(shape[-1])

    context = unet.config.cross_attention_dim
    sites = {}
    layers = [m for name, m in unet.named_modules() if name.endswith("attn2")]
    down_up_mid = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    assert len(layers) == len(down_up_mid)
    for i, name in enumerate(down_up_mid):
        channels = unet.get_submodule(name.removesuffix(".processor")).inner_dim
        sites[f"{2 * i + 1}.to_k_ip.weight"] = 2.0 * weight(channels, context)
        sites[f"{2 * i + 1}.to_v_ip.weight"] = 2.0 * weight(channels, context)
    return {"image_proj": _projection(kind, context, weight), "ip_adapter": sites}


def _norm(name, size, weight):
    return {f"{name}.weight": 1 + 0.1 * weight(size), f"{name}.bias": 0.1 * weight(size)}


def _linear(name, rows, columns, weight):
    return {f"{name}.weight": weight(rows, columns), f"{name}.bias": 0.1 * weight(rows)}


def _projection(kind, context, weight):
    if kind == "linear":
        return _linear("proj", 4 * context, 24, weight) | _norm("norm", context, weight)
    if kind == "full_face":
        net = _linear("proj.0", 24, 24, weight) | _linear("proj.2", context, 24, weight)
        return net | _norm("proj.3", context, weight)
    if kind == "plus":
        return _resampler("", 64, 24, context, 6, weight)
    if kind == "faceid":
        net = _linear("proj.0", 2 * 512, 512, weight) | _linear("proj.2", 4 * context, 1024, weight)
        return net | _norm("norm", context, weight)
    if kind.startswith("faceid_plus"):
        net = _linear("proj.0", 2 * 512, 512, weight) | _linear("proj.2", 4 * context, 1024, weight)
        net |= _norm("norm", context, weight)
        resampler = _resampler("perceiver_resampler.", context, 24, context, 4, weight)
        del resampler["perceiver_resampler.latents"]
        return net | resampler
    raise ValueError(kind)


def _resampler(prefix, dim, embed, context, queries, weight):
    net = {f"{prefix}latents": weight(1, queries, dim)}
    net |= _linear(f"{prefix}proj_in", dim, embed, weight)
    net |= _linear(f"{prefix}proj_out", context, dim, weight)
    net |= _norm(f"{prefix}norm_out", context, weight)
    for layer in range(4):
        name = f"{prefix}layers.{layer}"
        net |= _norm(f"{name}.0.norm1", dim, weight) | _norm(f"{name}.0.norm2", dim, weight)
        net[f"{name}.0.to_q.weight"] = weight(64, dim)
        net[f"{name}.0.to_kv.weight"] = weight(128, dim)
        net[f"{name}.0.to_out.weight"] = weight(dim, 64)
        net |= _norm(f"{name}.1.0", dim, weight)
        net[f"{name}.1.1.weight"] = weight(4 * dim, dim)
        net[f"{name}.1.3.weight"] = weight(dim, 4 * dim)
    return net


def storage_of(module):
    tensors = itertools.chain(module.parameters(), module.buffers())
    return sorted(t.untyped_storage().data_ptr() for t in tensors)


def is_original(unet):
    return all(type(p) is AttnProcessor2_0 for p in unet.attn_processors.values())


def make_features(kind, pictures, *, seed=3):
    """Features of pictures and of the negative ones, as `get_image_embeds` takes them."""
    generator = torch.Generator().manual_seed(seed)

    def features():
        def noise(*shape):
            return torch.randn(pictures, *shape, generator=generator)

        if kind.startswith("faceid_plus"):
            return noise(512), noise(9, 24)
        shapes = {"linear": (24,), "faceid": (512,), "full_face": (257, 24), "plus": (9, 24)}
        return noise(*shapes[kind])

    return features(), features()


def make_prompt(unet, *, seed=0, pictures=1, kind="plus", weight=0.8, **options):
    """An image prompt of random pictures, one for each row of a chunk where there are several."""
    adapter = load_image_adapter(make_adapter_state(unet, kind, seed=seed))
    cond, negative = make_features(kind, pictures, seed=100 + seed)
    embeds = adapter.get_image_embeds(cond, negative, combine="batch")
    return ImagePrompt(adapter, embeds, weight, **options)
