# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Modular pipelines: each prediction of a guider is a call of the UNet, cond or uncond."""

import diffusers
import pytest
import torch
from diffusers import guiders
from diffusers.hooks import LayerSkipConfig, SmoothedEnergyGuidanceConfig
from diffusers.modular_pipelines.modular_pipeline import PipelineState
from diffusers.modular_pipelines.stable_diffusion_xl import denoise
from pipeline_zoo import (
    COND_PICTURE,
    CONTEXT,
    SCHEDULE,
    TOKENS,
    UNCOND_PICTURE,
    make_adapter_state,
    make_controlnet,
    make_image_prompt,
    make_unet,
    noise,
    picture,
)
from row_oracle import Watch

from attnpatch import PerturbedAttentionGuidance
from attnpatch.engine import COND, UNCOND
from attnpatch.hosts import attach

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # diffusers' own
]

NAME = "StableDiffusionXLPipeline"
TEXTS = {
    "prompt_embeds": noise(1, TOKENS, CONTEXT, seed=3),
    "negative_prompt_embeds": noise(1, TOKENS, CONTEXT, seed=4),
    "pooled_prompt_embeds": noise(1, CONTEXT, seed=5),
    "negative_pooled_prompt_embeds": noise(1, CONTEXT, seed=6),
    "add_time_ids": torch.full((1, 6), 8.0),
    "negative_add_time_ids": torch.full((1, 6), 8.0),
}
BLOCKS = "down_blocks.0.attentions.0.transformer_blocks"
SKIP = LayerSkipConfig(indices=[0], fqn=BLOCKS, skip_attention=False, skip_ff=True)
SKIP_ATTENTION = LayerSkipConfig(
    indices=[0], fqn=BLOCKS, skip_attention=False, skip_ff=False, skip_attention_scores=True
)
SMOOTH = SmoothedEnergyGuidanceConfig(indices=[0], fqn=BLOCKS)
SKIPPING = {"skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 1.0}
GUIDERS = {
    # guider, the kinds of its predictions in the first and the second step
    "plain": (guiders.ClassifierFreeGuidance(3.0), [COND, UNCOND], [COND, UNCOND]),
    "unguided": (guiders.ClassifierFreeGuidance(1.0), [COND], [COND]),
    "projected": (guiders.AdaptiveProjectedGuidance(3.0), [COND, UNCOND], [COND, UNCOND]),
    "zero star": (guiders.ClassifierFreeZeroStarGuidance(3.0), [COND, UNCOND], [COND, UNCOND]),
    "auto": (guiders.AutoGuidance(3.0, auto_guidance_config=SKIP), [COND, UNCOND], [COND, UNCOND]),
    "skip layers": (
        guiders.SkipLayerGuidance(3.0, skip_layer_config=SKIP, **SKIPPING),
        [COND, UNCOND],
        [COND, UNCOND, COND],
    ),
    # diffusers gives the negative text to what it calls pred_cond_skip here.
    "skip layers, unguided": (
        guiders.SkipLayerGuidance(1.0, skip_layer_config=SKIP, **SKIPPING),
        [COND],
        [COND, UNCOND],
    ),
    "perturbed": (
        guiders.PerturbedAttentionGuidance(
            3.0,
            perturbed_guidance_config=SKIP_ATTENTION,
            perturbed_guidance_start=0.0,
            perturbed_guidance_stop=1.0,
        ),
        [COND, UNCOND],
        [COND, UNCOND, COND],
    ),
    "smoothed": (
        guiders.SmoothedEnergyGuidance(
            3.0, seg_guidance_config=SMOOTH, seg_guidance_start=0.0, seg_guidance_stop=1.0
        ),
        [COND, UNCOND],
        [COND, UNCOND, COND],
    ),
    "tangential": (guiders.TangentialClassifierFreeGuidance(3.0), [COND, UNCOND], [COND, UNCOND]),
}


def make_modular(step, guider, unet, **parts):
    pipeline = step().init_pipeline()
    scheduler = diffusers.EulerDiscreteScheduler(**SCHEDULE, steps_offset=1)
    pipeline.update_components(unet=unet, scheduler=scheduler, guider=guider, **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run(pipeline, **fields):
    pipeline.scheduler.set_timesteps(2)
    state = PipelineState()
    fields = {
        "timesteps": pipeline.scheduler.timesteps,
        "num_inference_steps": 2,
        "latents": noise(1, 4, 8, 8) * pipeline.scheduler.init_noise_sigma,
    } | fields
    for name, value in fields.items():
        state.set(name, value)
    for name, value in TEXTS.items():
        state.set(name, value, "denoiser_input_fields")
    return pipeline(state=state, output="latents")


def kinds_of(seen):
    return [call.roles for call in seen.calls]


@pytest.mark.parametrize("name", GUIDERS)
def test_the_predictions_of_every_guider(name):
    guider, first, second = GUIDERS[name]
    unet = make_unet(NAME)
    pipeline = make_modular(denoise.StableDiffusionXLDenoiseStep, guider, unet)
    with (
        attach(unet, make_image_prompt(unet)),
        Watch(unet, TEXTS["negative_prompt_embeds"]) as seen,
    ):
        run(pipeline)
    assert kinds_of(seen) == [(kind,) for kind in first + second]
    with attach(unet, PerturbedAttentionGuidance(2.0)):
        if len(second) == 1:
            assert run(pipeline).isfinite().all()
        else:
            with pytest.raises(ValueError, match="expected cond and uncond in one call"):
                run(pipeline)


def test_a_guider_that_stops():
    unet = make_unet(NAME)
    guider = guiders.ClassifierFreeGuidance(3.0, stop=0.5)
    pipeline = make_modular(denoise.StableDiffusionXLDenoiseStep, guider, unet)
    uncond = TEXTS["negative_prompt_embeds"]
    with attach(unet, make_image_prompt(unet)), Watch(unet, uncond) as seen:
        run(pipeline)
    assert kinds_of(seen) == [(COND,), (UNCOND,), (COND,)]


@pytest.mark.parametrize("name", ["plain", "unguided", "skip layers, unguided"])
def test_the_same_as_their_own_ip_adapter(name):
    unet = make_unet(NAME)
    pipeline = make_modular(denoise.StableDiffusionXLDenoiseStep, GUIDERS[name][0], unet)
    with attach(unet, make_image_prompt(unet)):
        found = run(pipeline)
    processors = dict(unet.attn_processors)
    unet._load_ip_adapter_weights([make_adapter_state(unet)], low_cpu_mem_usage=False)
    try:
        for processor in unet.attn_processors.values():
            if hasattr(processor, "scale"):
                processor.scale = [0.8]
        TEXTS["ip_adapter_embeds"] = [noise(1, 1, 8, seed=COND_PICTURE)]
        TEXTS["negative_ip_adapter_embeds"] = [noise(1, 1, 8, seed=UNCOND_PICTURE)]
        expected = run(pipeline)
    finally:
        del TEXTS["ip_adapter_embeds"], TEXTS["negative_ip_adapter_embeds"]
        unet.set_attn_processor(processors)
        unet.encoder_hid_proj = None
        unet.config.encoder_hid_dim_type = None
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


CONTROLLED = {
    "controlnet_cond": picture(seed=10),
    "conditioning_scale": 0.8,
    "controlnet_keep": [1.0, 1.0],
    "controlnet_kwargs": {},
}
PAINTED = {"mask": torch.ones(1, 1, 8, 8), "image_latents": noise(1, 4, 8, 8)}
PAINTED |= {"noise": noise(1, 4, 8, 8), "masked_image_latents": None}
STEPS = {
    "StableDiffusionXLInpaintDenoiseStep": PAINTED,
    "StableDiffusionXLControlNetDenoiseStep": CONTROLLED | {"guess_mode": False},
    "StableDiffusionXLInpaintControlNetDenoiseStep": PAINTED | CONTROLLED | {"guess_mode": True},
}


@pytest.mark.parametrize("name", STEPS)
def test_their_other_loops(name):
    unet = make_unet(NAME)
    parts = {"controlnet": make_controlnet(NAME)} if "ControlNet" in name else {}
    guider = guiders.ClassifierFreeGuidance(3.0)
    pipeline = make_modular(getattr(denoise, name), guider, unet, **parts)
    with (
        attach(unet, make_image_prompt(unet)),
        Watch(unet, TEXTS["negative_prompt_embeds"]) as seen,
    ):
        run(pipeline, **STEPS[name])
    assert kinds_of(seen) == [(COND,), (UNCOND,)] * 2
