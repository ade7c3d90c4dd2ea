# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Guidance in diffusers' pipelines for pictures, inpainting and control, with any scheduler."""

import functools
import inspect

import diffusers
import pytest
import torch
from diffusers_models import is_original, make_unet
from reference_sag import ReferenceSAG
from test_diffusers_guidance import lively
from test_diffusers_pipelines import SD, arguments, make_pipeline

from attnpatch import PerturbedAttentionGuidance, SelfAttentionGuidance
from attnpatch.hosts import attach

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array.*:DeprecationWarning"),
]

SIZE = (17, 24)  # of the latent
# Two levels: what pipelines do to a batch is the same at any depth.
SHALLOW = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "transformer_layers_per_block": 1,
    "attention_head_dim": 2,
}


@functools.cache
def make_vae():
    levels = 4
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4,) * levels,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        norm_num_groups=4,
        latent_channels=4,
    )
    return vae.eval().requires_grad_(False)


@functools.cache
def unet_of(structure, channels=4):
    return lively(make_unet(structure, in_channels=channels, **SHALLOW))


@functools.cache
def controlnet_of(structure):
    controlnet = diffusers.ControlNetModel.from_unet(
        unet_of(structure), conditioning_embedding_out_channels=(4,) * 4
    ).eval()
    generator = torch.Generator().manual_seed(3)
    for block in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block):
        block.weight.data = 0.3 * torch.randn(block.weight.shape, generator=generator)
    return controlnet.requires_grad_(False)


def pipeline_of(kind, structure="sd1", channels=4, scheduler=None, **parts):
    if "ControlNet" in kind:
        parts["controlnet"] = controlnet_of(structure)
    pipeline = make_pipeline(
        "sdxl" if structure == "sdxl" else "sd1",
        kind=getattr(diffusers, kind),
        unet=unet_of(structure, channels),
        vae=make_vae(),
        **parts,
    )
    if scheduler is not None:
        pipeline.scheduler = scheduler
    return pipeline


def picture(seed, channels=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, channels, 8 * SIZE[0], 8 * SIZE[1], generator=generator)


def run(pipeline, **options):
    """Run a pipeline with all that its kind asks for; returns latents."""
    name = type(pipeline).__name__
    given = arguments(pipeline, **({"num_inference_steps": 2} | options))
    given |= {"height": 8 * SIZE[0], "width": 8 * SIZE[1]}
    del given["latents"]
    if "Inpaint" in name or "Img2Img" in name:
        given |= {"image": picture(0), "strength": 0.6, "num_inference_steps": 3}
    if "Inpaint" in name:
        given["mask_image"] = picture(2, 1).round()
    elif "Img2Img" in name:
        del given["height"], given["width"]
    if "ControlNet" in name:
        control = "control_image" if "image" in given else "image"
        given |= {control: picture(4), "controlnet_conditioning_scale": 0.8}
    generator = torch.Generator().manual_seed(5)
    return pipeline(**given, generator=generator).images


def v_prediction():
    return diffusers.DDIMScheduler(**SD, clip_sample=False, prediction_type="v_prediction")


PIPELINES = [
    # kind, structure, the UNet's channels
    ("StableDiffusionImg2ImgPipeline", "sd1", 4),
    ("StableDiffusionInpaintPipeline", "sd1", 4),
    ("StableDiffusionInpaintPipeline", "sd1", 9),
    ("StableDiffusionXLImg2ImgPipeline", "sdxl", 4),
    ("StableDiffusionXLInpaintPipeline", "sdxl", 4),
    ("StableDiffusionXLInpaintPipeline", "sdxl", 9),
    ("StableDiffusionControlNetPipeline", "sd1", 4),
    ("StableDiffusionControlNetImg2ImgPipeline", "sd1", 4),
    ("StableDiffusionXLControlNetPipeline", "sdxl", 4),
    ("StableDiffusionPipeline", "sd2", 4),
    ("StableDiffusionXLPipeline", "sdxl", 4),
]


@pytest.mark.parametrize(("kind", "structure", "channels"), PIPELINES)
def test_self_attention_guidance(kind, structure, channels):
    """Equals the formula written out; 0 is plain, runs repeat, and detaching restores."""
    scheduler = v_prediction() if structure == "sd2" else None
    pipeline = pipeline_of(kind, structure, channels, scheduler)
    plain = run(pipeline)
    with ReferenceSAG(pipeline, 0.75, 1.5):
        expected = run(pipeline)
    with attach(pipeline, SelfAttentionGuidance(0.75, blur_sigma=1.5)):
        found = run(pipeline)
        assert torch.equal(run(pipeline), found)
    close(found, expected, plain)
    assert is_original(pipeline.unet)
    with attach(pipeline, SelfAttentionGuidance(0.0)):
        assert torch.equal(run(pipeline), plain)


def close(found, expected, plain):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.std()))
    assert (found - plain).abs().max() > 1e-2 * expected.std(), "guidance does nothing"


OWN = [
    # diffusers' pipeline for perturbed attention, the plain one, structure
    ("StableDiffusionPAGImg2ImgPipeline", "StableDiffusionImg2ImgPipeline", "sd1"),
    ("StableDiffusionPAGInpaintPipeline", "StableDiffusionInpaintPipeline", "sd1"),
    ("StableDiffusionControlNetPAGPipeline", "StableDiffusionControlNetPipeline", "sd1"),
    ("StableDiffusionXLPAGImg2ImgPipeline", "StableDiffusionXLImg2ImgPipeline", "sdxl"),
    ("StableDiffusionXLPAGInpaintPipeline", "StableDiffusionXLInpaintPipeline", "sdxl"),
    ("StableDiffusionXLControlNetPAGPipeline", "StableDiffusionXLControlNetPipeline", "sdxl"),
]


@pytest.mark.parametrize(("own", "kind", "structure"), OWN)
def test_equals_the_pipelines_for_perturbed_attention_guidance(own, kind, structure):
    pipeline = pipeline_of(kind, structure)
    plain = run(pipeline)
    with attach(pipeline, PerturbedAttentionGuidance(20.0)):
        found = run(pipeline)
    originals = dict(pipeline.unet.attn_processors)
    expected = run(pipeline_of(own, structure, pag_applied_layers="mid"), pag_scale=20.0)
    pipeline.unet.set_attn_processor(originals)
    close(found, expected, plain)


V = {"prediction_type": "v_prediction"}
SCHEDULERS = {
    "DDIMScheduler": {"clip_sample": False, "rescale_betas_zero_snr": True} | V,
    "DDPMScheduler": {"clip_sample": False},
    "PNDMScheduler": {"skip_prk_steps": True},
    "DPMSolverMultistepScheduler": {"algorithm_type": "sde-dpmsolver++"} | V,
    "DPMSolverSinglestepScheduler": {},
    "UniPCMultistepScheduler": V,
    "DEISMultistepScheduler": {},
    "SASolverScheduler": {},
    "EulerDiscreteScheduler": {"timestep_spacing": "trailing"} | V,
    "EulerAncestralDiscreteScheduler": {},
    "HeunDiscreteScheduler": {"use_karras_sigmas": True} | V,
    "LMSDiscreteScheduler": {},
    "KDPM2DiscreteScheduler": {},
    "KDPM2AncestralDiscreteScheduler": V,
    "LCMScheduler": {},
    "TCDScheduler": {},
    "EDMEulerScheduler": {},
    "EDMDPMSolverMultistepScheduler": V,
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_any_scheduler(name):
    pipeline = make_pipeline(unet=unet_of("sd1"))
    options = SD | SCHEDULERS[name]
    make = getattr(diffusers, name)
    known = inspect.signature(make).parameters
    pipeline.scheduler = make(**{k: v for k, v in options.items() if k in known})
    options = {"num_inference_steps": 3, "guidance_scale": 1.0 if "LCM" in name else 3.0}
    plain = run(pipeline, **options)
    with ReferenceSAG(pipeline, 0.75, 1.5):
        expected = run(pipeline, **options)
    with attach(pipeline, SelfAttentionGuidance(0.75, blur_sigma=1.5)):
        found = run(pipeline, **options)
    close(found, expected, plain)
