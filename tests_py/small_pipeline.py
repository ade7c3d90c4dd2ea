# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A tiny Stable Diffusion pipeline with random weights, its adapter and encoder, on disk."""

import json

import torch
from PIL import Image
from safetensors.torch import save_file

CONTEXT = 32
CHANNELS = (32, 64)


def save_tokenizer(folder):
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(ord("!"), ord("~") + 1)]
    vocabulary = [*letters, *(f"{x}</w>" for x in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({x: i for i, x in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(
        vocab=str(folder / "vocab.json"),
        merges=str(folder / "merges.txt"),
        model_max_length=16,
    )
    return tokenizer, len(vocabulary)


def make_pipeline(folder):
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    tokenizer, words = save_tokenizer(folder / "words")
    text = CLIPTextConfig(
        vocab_size=words,
        hidden_size=CONTEXT,
        intermediate_size=37,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=words - 2,
        eos_token_id=words - 1,
        pad_token_id=words - 1,
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=CHANNELS,
        layers_per_block=1,
        cross_attention_dim=CONTEXT,
        attention_head_dim=2,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    vae = AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=8,
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder / "model")
    return unet


def site_projections(unet):
    """An adapter's keys and values of each cross-attention of the UNet."""
    state = {}
    names = [name for name in unet.attn_processors if ".attn2." in name]
    for i, name in enumerate(names):
        channels = unet.get_submodule(name.removesuffix(".processor")).to_q.in_features
        for part in ("to_k_ip", "to_v_ip"):
            state[f"ip_adapter.{2 * i + 1}.{part}.weight"] = torch.randn(channels, CONTEXT)
    return state


def make_adapter(path, unet, embed_dim):
    state = {
        "image_proj.proj.weight": torch.randn(4 * CONTEXT, embed_dim),
        "image_proj.proj.bias": torch.zeros(4 * CONTEXT),
        "image_proj.norm.weight": torch.ones(CONTEXT),
        "image_proj.norm.bias": torch.zeros(CONTEXT),
    }
    state |= site_projections(unet)
    save_file(state, path)


def make_encoder(folder):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=24,
        image_size=32,
        patch_size=8,
    )
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    return config.projection_dim


def make_own(folder):
    """Write `model`, `adapter.safetensors`, `encoder` and two pictures into a folder."""
    unet = make_pipeline(folder)
    make_adapter(folder / "adapter.safetensors", unet, make_encoder(folder / "encoder"))
    for name, colour in (("red", (255, 0, 0)), ("sea", (0, 90, 160))):
        Image.new("RGB", (50, 40), colour).save(folder / f"{name}.png")
    return folder
