# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Pipelines of transformers that are given pictures, run to the end through small VAEs."""

import functools

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from transformer_models import CASES, TEXT, _seeded
from transformer_pipelines import THREE, TWO, embeds, rand

import attnpatch as ap
from attnpatch.patches import KeyGain, TextKeys

pytestmark = [
    pytest.mark.filterwarnings("ignore:`FluxPosEmbed`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning"),
]
HEIGHT, WIDTH = 40, 24
SIZE = {"height": HEIGHT, "width": WIDTH}
RUN = {"num_inference_steps": 3, "output_type": "np"}


@functools.cache
def small_vae(channels):
    """A VAE that halves pictures once, so that a token is 4 × 4 pixels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return diffusers.AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=channels,
            norm_num_groups=2,
            scaling_factor=0.5,
            shift_factor=0.1,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ).eval()


@functools.cache
def qwen_vae():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return diffusers.AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=2,
            dim_mult=[1, 1],
            num_res_blocks=1,
            temperal_downsample=[False],
            latents_mean=[0.0, 0.1],
            latents_std=[1.0, 1.2],
        ).eval()


@_seeded
def fill_model():
    """Flux Fill's: latents, those of the masked picture, and the mask."""
    return diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=8 + 8 + 4 * 4,
        out_channels=8,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=12,
        pooled_projection_dim=10,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )


def picture(seed=0):
    noise = np.random.RandomState(seed).rand(HEIGHT, WIDTH, 3)
    return Image.fromarray((noise * 255).astype("uint8"))


def build(kind, model, vae, absent=()):
    """Build a pipeline without text encoders."""
    pipeline = kind(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        transformer=model,
        vae=vae,
        **dict.fromkeys(("text_encoder", "tokenizer", *absent)),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def flux(kind, model=None, **arguments):
    model = CASES["FluxTransformer2DModel"].make() if model is None else model
    pipeline = build(kind, model, small_vae(2), TWO)
    texts = embeds(1, TEXT, 12, prompt_embeds=True) | embeds(1, 10, pooled_prompt_embeds=True)
    return pipeline, {"image": picture(), **SIZE, **texts, **arguments}


def mask():
    covered = np.zeros((HEIGHT, WIDTH), dtype="uint8")
    covered[:, WIDTH // 2 :] = 255
    return Image.fromarray(covered)


def flux_image_to_image():
    return flux(diffusers.FluxImg2ImgPipeline, strength=0.7)


def flux_inpaint():
    return flux(diffusers.FluxInpaintPipeline, mask_image=mask(), strength=0.7)


def flux_fill():
    return flux(diffusers.FluxFillPipeline, fill_model(), mask_image=mask())


def kontext():
    area = {"max_area": HEIGHT * WIDTH, "_auto_resize": False}
    return flux(diffusers.FluxKontextPipeline, **area)


def sd3_image_to_image():
    model = CASES["SD3Transformer2DModel"].make()
    pipeline = build(diffusers.StableDiffusion3Img2ImgPipeline, model, small_vae(4), THREE)
    return pipeline, {
        "image": picture(),
        **SIZE,
        **embeds(1, TEXT, 12, prompt_embeds=True, negative_prompt_embeds=True),
        **embeds(1, 10, pooled_prompt_embeds=True, negative_pooled_prompt_embeds=True),
        "strength": 0.7,
        "guidance_scale": 4.0,
    }


def z_image_to_image():
    model = CASES["ZImageTransformer2DModel"].make()
    pipeline = build(diffusers.ZImageImg2ImgPipeline, model, small_vae(4))
    texts = [rand(TEXT, 12, seed=3)]
    more = {"negative_prompt_embeds": [], "guidance_scale": 0.0, "strength": 0.7}
    return pipeline, {"image": picture(), "prompt": None, "prompt_embeds": texts, **SIZE, **more}


def qwen_image_to_image():
    model = CASES["QwenImageTransformer2DModel"].make()
    pipeline = build(diffusers.QwenImageImg2ImgPipeline, model, qwen_vae())
    own = torch.ones(1, TEXT, dtype=torch.bool)
    texts = embeds(1, TEXT, 12, prompt_embeds=True, negative_prompt_embeds=True)
    masks = {"prompt_embeds_mask": own, "negative_prompt_embeds_mask": own}
    more = {"true_cfg_scale": 4.0, "strength": 0.7}
    return pipeline, {"image": picture(), **SIZE, **texts, **masks, **more}


def qwen_edit():
    """With two references; the pipeline itself makes them large: their tokens are many."""
    model = CASES["QwenImageTransformer2DModel"].make()
    pipeline = build(diffusers.QwenImageEditPlusPipeline, model, qwen_vae(), ("processor",))
    own = torch.ones(1, TEXT, dtype=torch.bool)
    texts = embeds(1, TEXT, 12, prompt_embeds=True)
    pictures = [picture(), picture(1)]
    return pipeline, {"image": pictures, **SIZE, **texts, "prompt_embeds_mask": own}


PIPELINES = {
    made.__name__: made
    for made in (
        flux_image_to_image,
        flux_inpaint,
        flux_fill,
        kontext,
        sd3_image_to_image,
        z_image_to_image,
        qwen_image_to_image,
    )
}


def run(pipeline, arguments):
    made = pipeline(**arguments, **RUN, generator=torch.Generator().manual_seed(0)).images
    assert made.shape == (1, HEIGHT, WIDTH, 3) and np.isfinite(made).all()
    return made


@pytest.mark.parametrize("name", PIPELINES)
def test_gains_and_guidance(name):
    """They act in the picture, and a gain of 1 and what was detached leave it as it was."""
    pipeline, arguments = PIPELINES[name]()
    plain = run(pipeline, arguments)
    negative = rand(1, TEXT, 12, seed=8)
    patches = {
        "gain": KeyGain(TextKeys((0, 3)), 6.0),
        "guidance": ap.NormalizedAttentionGuidance(negative, 6.0, alpha=0.8),
    }
    for patch in patches.values():
        with ap.attach(pipeline, patch):
            assert np.abs(run(pipeline, arguments) - plain).max() > 1e-4
    with ap.attach(pipeline, KeyGain(TextKeys((0,)), 1.0)):
        assert np.array_equal(run(pipeline, arguments), plain)
    assert np.array_equal(run(pipeline, arguments), plain)


def test_a_reference_that_is_hidden_from_all_is_as_if_it_was_not_given():
    """Kontext's picture is then the one that Flux makes of the same noise."""
    pipeline, arguments = kontext()
    latents = rand(1, 10 * 6, 8, seed=5)
    arguments |= {"latents": latents}
    text_alone = build(diffusers.FluxPipeline, pipeline.transformer, small_vae(2), TWO)
    wanted = run(text_alone, {n: v for n, v in arguments.items() if n in _OF_FLUX})
    with_reference = run(pipeline, arguments)
    assert np.abs(with_reference - wanted).max() > 1e-4
    with ap.attach(pipeline, ap.reference_strength(0.0, rows="all")):
        hidden = run(pipeline, arguments)
    np.testing.assert_allclose(hidden, wanted, rtol=1e-4, atol=1e-5)
    with ap.attach(pipeline, ap.reference_strength(3.0)):
        assert np.abs(run(pipeline, arguments) - with_reference).max() > 1e-4


_OF_FLUX = ("height", "width", "prompt_embeds", "pooled_prompt_embeds", "latents")


def test_references_of_an_edit_model(monkeypatch):
    """Each of two references by its own strength, in the pipeline that encodes them."""
    import diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus as module

    monkeypatch.setattr(module, "VAE_IMAGE_SIZE", 32 * 32)
    pipeline, arguments = qwen_edit()
    plain = run(pipeline, arguments)
    found = []
    for reference in (0, 1):
        with ap.attach(pipeline, ap.reference_strength(4.0, reference)):
            found.append(run(pipeline, arguments))
        assert np.abs(found[-1] - plain).max() > 1e-5
    assert np.abs(found[0] - found[1]).max() > 1e-5
    with (
        ap.attach(pipeline, ap.reference_strength(4.0, 2)),
        pytest.raises(ValueError, match="reference: expected one of index 2, got a call with 2"),
    ):
        run(pipeline, arguments)
