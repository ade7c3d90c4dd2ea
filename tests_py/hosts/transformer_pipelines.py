# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Pipelines of diffusers around narrow transformers, without text encoders and VAE."""

from types import SimpleNamespace

import diffusers
import torch
from transformer_models import CASES, TEXT

STEPS = 3


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make(kind, model, **more):
    """A pipeline of `kind` without text encoders and VAE."""
    names = ("vae", "text_encoder", "tokenizer", *more.pop("absent", ()))
    pipeline = kind(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        transformer=model,
        **dict.fromkeys(names),
        **more,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


TWO = ("text_encoder_2", "tokenizer_2")
THREE = (*TWO, "text_encoder_3", "tokenizer_3")
SIZE = {"height": 80, "width": 48, "num_inference_steps": STEPS, "output_type": "latent"}


def embeds(*shape, **names):
    return {name: rand(*shape, seed=place) for place, name in enumerate(names, 1) if names[name]}


def flux(batch, guided):
    pipeline = make(diffusers.FluxPipeline, CASES["FluxTransformer2DModel"].make(), absent=TWO)
    more = {"true_cfg_scale": 4.0} if guided else {}
    return pipeline, {
        **embeds(batch, TEXT, 12, prompt_embeds=True, negative_prompt_embeds=guided),
        **embeds(batch, 10, pooled_prompt_embeds=True, negative_pooled_prompt_embeds=guided),
        **more,
    }


def chroma(batch, guided):
    pipeline = make(diffusers.ChromaPipeline, CASES["ChromaTransformer2DModel"].make())
    mask = torch.ones(batch, TEXT)
    return pipeline, {
        **embeds(batch, TEXT, 12, prompt_embeds=True, negative_prompt_embeds=guided),
        "prompt_attention_mask": mask,
        **({"negative_prompt_attention_mask": mask} if guided else {}),
        "guidance_scale": 4.0 if guided else 0.0,
    }


def klein(batch, guided):
    pipeline = make(diffusers.Flux2KleinPipeline, CASES["Flux2Transformer2DModel"].make())
    # It asks its VAE for the statistics of latents.
    bn = SimpleNamespace(running_mean=torch.zeros(8), running_var=torch.ones(8))
    pipeline.vae = SimpleNamespace(bn=bn, config=SimpleNamespace(batch_norm_eps=1e-4))
    return pipeline, {
        **embeds(batch, TEXT, 12, prompt_embeds=True, negative_prompt_embeds=guided),
        "guidance_scale": 4.0 if guided else 1.0,
    }


def qwen(batch, guided):
    pipeline = make(diffusers.QwenImagePipeline, CASES["QwenImageTransformer2DModel"].make())
    mask = torch.ones(batch, TEXT, dtype=torch.bool)
    negative = {"negative_prompt_embeds_mask": mask, "true_cfg_scale": 4.0} if guided else {}
    return pipeline, {
        **embeds(batch, TEXT, 12, prompt_embeds=True, negative_prompt_embeds=guided),
        "prompt_embeds_mask": mask,
        **negative,
    }


def sd3(batch, guided):
    model = CASES["SD3Transformer2DModel"].make()
    pipeline = make(diffusers.StableDiffusion3Pipeline, model, absent=THREE)
    return pipeline, {
        **embeds(batch, TEXT, 12, prompt_embeds=True, negative_prompt_embeds=True),
        **embeds(batch, 10, pooled_prompt_embeds=True, negative_pooled_prompt_embeds=True),
        "guidance_scale": 4.0 if guided else 1.0,
    }


def z_image(batch, guided):
    pipeline = make(diffusers.ZImagePipeline, CASES["ZImageTransformer2DModel"].make())
    texts = [rand(TEXT, 12, seed=row) for row in range(batch)]
    negative = [rand(TEXT - 3, 12, seed=9 + row) for row in range(batch)]
    return pipeline, {
        "prompt": None,
        "prompt_embeds": texts,
        "negative_prompt_embeds": negative if guided else [],
        "guidance_scale": 4.0 if guided else 0.0,
    }


def krea2(batch, guided):
    pipeline = make(diffusers.Krea2Pipeline, CASES["Krea2Transformer2DModel"].make())
    mask = torch.ones(batch, TEXT, dtype=torch.bool)
    negative = {"negative_prompt_embeds_mask": mask} if guided else {}
    return pipeline, {
        **embeds(batch, TEXT, 2, 12, prompt_embeds=True, negative_prompt_embeds=guided),
        "prompt_embeds_mask": mask,
        **negative,
        "guidance_scale": 4.0 if guided else 0.0,
    }
