# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""`attnpatch demo --model`: a tiny Stable Diffusion pipeline with random weights, on disk."""

import argparse
import json

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from attnpatch.demo import cli

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


def make_adapter(path, unet, embed_dim):
    state = {
        "image_proj.proj.weight": torch.randn(4 * CONTEXT, embed_dim),
        "image_proj.proj.bias": torch.zeros(4 * CONTEXT),
        "image_proj.norm.weight": torch.ones(CONTEXT),
        "image_proj.norm.bias": torch.zeros(CONTEXT),
    }
    names = [name for name in unet.attn_processors if ".attn2." in name]
    for i, name in enumerate(names):
        channels = unet.get_submodule(name.removesuffix(".processor")).to_q.in_features
        for part in ("to_k_ip", "to_v_ip"):
            state[f"ip_adapter.{2 * i + 1}.{part}.weight"] = torch.randn(channels, CONTEXT)
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


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    unet = make_pipeline(folder)
    make_adapter(folder / "adapter.safetensors", unet, make_encoder(folder / "encoder"))
    for name, colour in (("red", (255, 0, 0)), ("sea", (0, 90, 160))):
        Image.new("RGB", (50, 40), colour).save(folder / f"{name}.png")
    return folder


def demo(folder, *arguments):
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    own = ["--model", folder / "model", "--adapter", folder / "adapter.safetensors"]
    own += ["--image", folder / "red.png", folder / "sea.png"]
    own += ["--image-encoder", folder / "encoder", "--output", folder / "sheet.png"]
    return cli.run(parser.parse_args([*map(str, own), *arguments]))


@pytest.mark.slow
def test_a_users_pipeline_runs(own, capsys):
    assert demo(own, "--steps", "3", "--size", "32", "--weight", "0") == 1
    output = capsys.readouterr()
    assert "no effect" in output.err
    assert [line for line in output.out.splitlines() if line.startswith("mask left half")]
    with Image.open(own / "sheet.png") as sheet:
        assert sheet.width > 800


@pytest.mark.slow
def test_image_prompts_change_a_users_pictures(own):
    from attnpatch.demo.own_model import OwnModel, OwnOptions
    from attnpatch.demo.runner import StepClock, change
    from attnpatch.demo.variants import PLAIN, Variant

    model = OwnModel(
        OwnOptions(
            model=str(own / "model"),
            adapter=str(own / "adapter.safetensors"),
            images=(str(own / "red.png"),),
            image_encoder=str(own / "encoder"),
            prompt="a",
            steps=3,
            size=32,
        )
    )
    plain = model.generate(PLAIN, StepClock())
    again = model.generate(PLAIN, StepClock())
    prompted = model.generate(Variant("weight", "weight 1", 1.0), StepClock())
    assert change(again, plain) == (0.0, 0.0)
    assert min(change(prompted, plain)) > 0.0
    assert change(model.generate(PLAIN, StepClock()), plain) == (0.0, 0.0)


def test_references_are_read_upright_and_square(tmp_path):
    from attnpatch.demo.own_model import read_references

    picture = Image.new("RGB", (50, 40), (0, 90, 160))
    picture.paste((255, 0, 0), (0, 0, 25, 40))
    sideways = picture.transpose(Image.Transpose.ROTATE_90)
    sideways.getexif()[0x0112] = 6  # EXIF's orientation: a quarter to the right
    sideways.save(tmp_path / "phone.png", exif=sideways.getexif())
    (read,) = read_references([str(tmp_path / "phone.png")])
    assert read.size == (40, 40) and read.tobytes() == picture.crop((5, 0, 45, 40)).tobytes()
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        read_references([str(tmp_path / "none.png")])


def make_identity_adapter(path, unet):
    """An adapter of InstantID's structure."""

    def linear(rows, columns):
        return torch.randn(rows, columns) / columns**0.5

    state = {"latents": torch.randn(1, 16, CONTEXT)}
    for name, rows, columns in (("proj_in", CONTEXT, 512), ("proj_out", CONTEXT, CONTEXT)):
        state |= {f"{name}.weight": linear(rows, columns), f"{name}.bias": torch.zeros(rows)}
    norms = ["norm_out", "layers.0.0.norm1", "layers.0.0.norm2", "layers.0.1.0"]
    for name in norms:
        state |= {f"{name}.weight": torch.ones(CONTEXT), f"{name}.bias": torch.zeros(CONTEXT)}
    sizes = {"0.to_q": (64, CONTEXT), "0.to_kv": (128, CONTEXT), "0.to_out": (CONTEXT, 64)}
    sizes |= {"1.1": (64, CONTEXT), "1.3": (CONTEXT, 64)}
    state |= {f"layers.0.{name}.weight": linear(*size) for name, size in sizes.items()}
    state = {f"image_proj.{name}": tensor for name, tensor in state.items()}
    names = [name for name in unet.attn_processors if ".attn2." in name]
    for i, name in enumerate(names):
        channels = unet.get_submodule(name.removesuffix(".processor")).to_q.in_features
        for part in ("to_k_ip", "to_v_ip"):
            state[f"ip_adapter.{2 * i + 1}.{part}.weight"] = torch.randn(channels, CONTEXT)
    save_file(state, path)


def test_an_identity_changes_a_users_pictures(own):
    """What `attnpatch face --model` shows."""
    from attnpatch.demo import face_cli, face_model
    from attnpatch.demo.own_model import OwnOptions, load_pipeline
    from attnpatch.demo.runner import change
    from attnpatch.faces import Face

    file = own / "identity.safetensors"
    unet = load_pipeline(OwnOptions(str(own / "model"), "", ())).unet
    make_identity_adapter(file, unet)
    parser = argparse.ArgumentParser()
    face_cli.add_arguments(parser)
    options = ["--model", own / "model", "--adapter", file, "--steps", "3", "--prompt", "a"]
    arguments = parser.parse_args([str(word) for word in options])
    embedding = 20 * torch.randn(512, generator=torch.Generator().manual_seed(1)).numpy()
    face = Face([0, 0, 9, 9], 1.0, [[0.0, 0.0]] * 5, embedding)
    plain, changed = face_model.identity_section(face, arguments).rows[0]
    assert "ms a step" in plain.note and "ms a step" in changed.note
    assert min(change([changed.picture], [plain.picture])) > 0
