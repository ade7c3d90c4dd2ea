# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Every pipeline of diffusers that has a UNet: each row is taken for what its text is."""

import importlib.util
import types
from pathlib import Path

import diffusers
import diffusers_models
import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from pipeline_zoo import (
    COND_PICTURE,
    CONTEXT,
    FRAMES,
    TOKENS,
    UNCOND_PICTURE,
    arguments,
    make_adapter_state,
    make_image_prompt,
    make_pipeline,
    noise,
    pipelines_with_unets,
)
from row_oracle import Watch

from attnpatch import NearSightedTile, PerturbedAttentionGuidance, SelfAttentionGuidance
from attnpatch.engine import COND, UNCOND
from attnpatch.hosts import attach, patch_model
from attnpatch.hosts.diffusers.pipelines import LAYOUTS, UNKNOWN_ROWS, UNPATCHED

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # diffusers' own, of old pipelines
]

VERDICTS = {**LAYOUTS, **UNKNOWN_ROWS, **UNPATCHED}
# Their texts come of models with weights alone; their code lays rows out as that of others.
NOT_RUN = (
    "StableUnCLIPPipeline",
    "KolorsImg2ImgPipeline",
    "BlipDiffusionPipeline",
    "BlipDiffusionControlNetPipeline",
    "StableDiffusionXLModularPipeline",  # see test_diffusers_modular.py
)
RUN = [name for name in LAYOUTS if name not in NOT_RUN]
GUIDANCE = (SelfAttentionGuidance(0.5), PerturbedAttentionGuidance(2.0))
# These read or change attention at layers of their own.
GUIDED_BY_THEMSELVES = [name for name in RUN if "PAG" in name or "SAG" in name]


def test_every_class_has_one_verdict():
    classes = set(pipelines_with_unets())
    assert classes <= set(VERDICTS), "pipelines.py lacks pipelines of diffusers"
    assert set(VERDICTS) - classes == {"StableDiffusionXLModularPipeline"}, "unknown names"
    assert hasattr(diffusers, "StableDiffusionXLModularPipeline")
    assert len(VERDICTS) == len(LAYOUTS) + len(UNKNOWN_ROWS) + len(UNPATCHED)


def test_their_page_is_up_to_date():
    path = Path(__file__).parents[2] / "tools" / "pipelines.py"
    spec = importlib.util.spec_from_file_location("pipelines_page", path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.PATH.read_text(encoding="utf-8") == tool.page()


def uncond_texts(pipeline, inputs):
    name = type(pipeline).__name__
    if "negative_prompt_embeds" in inputs:
        return inputs["negative_prompt_embeds"]
    if name == "PaintByExamplePipeline":
        return pipeline.image_encoder.uncond_vector.detach()
    if name == "LDMTextToImagePipeline":
        return noise(1, TOKENS, CONTEXT, seed=0)  # of the empty prompt
    return torch.zeros(1, 1, CONTEXT)


def watch(name, patches, **options):
    pipeline = make_pipeline(name)
    inputs = arguments(pipeline, **options)
    with attach(pipeline, patches), Watch(pipeline.unet, uncond_texts(pipeline, inputs)) as seen:
        pipeline(**inputs)
    return seen


@pytest.mark.parametrize("name", RUN)
def test_kinds_are_those_of_the_texts(name):
    """In each call, and in the degraded passes of guidance."""
    patches = [make_image_prompt(make_pipeline(name).unet)]
    if name not in GUIDED_BY_THEMSELVES:
        patches += GUIDANCE
    seen = watch(name, patches)
    guided = not any(part in name for part in ("Marigold", "LatentConsistency"))
    assert guided == any(UNCOND in call.roles for call in seen.calls)
    assert bool(seen.degraded) == (name not in GUIDED_BY_THEMSELVES)


FAMILIES = [
    "StableDiffusionPipeline",
    "StableDiffusionControlNetPipeline",
    "StableDiffusionXLPAGPipeline",
    "StableDiffusionInstructPix2PixPipeline",
    "StableDiffusionSAGPipeline",
    "StableDiffusionPanoramaPipeline",
    "StableDiffusionAttendAndExcitePipeline",
    "AnimateDiffPipeline",
    "TextToVideoSDPipeline",
    "I2VGenXLPipeline",
]


@pytest.mark.parametrize("name", FAMILIES)
def test_without_classifier_free_guidance(name):
    patches = [make_image_prompt(make_pipeline(name).unet)]
    if name not in GUIDED_BY_THEMSELVES:
        patches += GUIDANCE
    seen = watch(name, patches, guidance_scale=1.0)
    assert all(call.roles == (COND,) * call.batch for call in seen.calls)
    assert bool(seen.degraded) == (name not in GUIDED_BY_THEMSELVES)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in FAMILIES[5:8]])
def test_prompts_and_pictures_of_each(name):
    several = "num_videos_per_prompt" if "I2V" in name else "num_images_per_prompt"
    options = {} if "TextToVideo" in name else {several: 2}
    seen = watch(name, [make_image_prompt(make_pipeline(name).unet, 2)], prompts=2, **options)
    latents = 2 if "TextToVideo" in name else 4
    frames = FRAMES if "Video" in name or "I2V" in name else 1
    call = seen.calls[-1]
    assert call.slot_count == latents * frames
    if frames == 1:
        assert set(zip(call.row_slots, call.row_samples, strict=True)) == {
            (slot, 2 * slot // latents) for slot in range(latents)
        }


@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("scale", [0.0, 2.0])
def test_perturbed_rows(guidance, scale):
    name = "StableDiffusionPAGPipeline"
    prompt = make_image_prompt(make_pipeline(name).unet)
    seen = watch(name, prompt, guidance_scale=guidance, pag_scale=scale)
    kinds = ((UNCOND, COND) if guidance > 1 else (COND,)) + (COND,) * (scale > 0)
    assert all(call.roles == kinds for call in seen.calls)


def test_each_latent_that_is_moved_has_its_own_picture():
    name = "StableDiffusionAttendAndExcitePipeline"
    options = {"prompts": 2, "token_indices": [[1], [1]], "num_images_per_prompt": 1}
    seen = watch(name, make_image_prompt(make_pipeline(name).unet, 2), **options)
    alone = [call for call in seen.calls if call.batch == 1]
    assert [call.row_samples for call in alone] == [(0,), (1,)] * 2


@pytest.mark.parametrize("views_at_once", [1, 2])
@pytest.mark.parametrize("circular", [False, True])
def test_views_of_a_panorama(views_at_once, circular):
    """Each view gets its part of the mask, as if the part were given for it alone."""
    name = "StableDiffusionPanoramaPipeline"
    pipeline, width = make_pipeline(name), 80
    mask = torch.rand(8, width, generator=torch.Generator().manual_seed(7))
    prompt = make_image_prompt(pipeline.unet, mask=mask)
    options = {
        "width": 8 * width,
        "view_batch_size": views_at_once,
        "circular_padding": circular,
        "num_inference_steps": 1,
    }
    uncond = uncond_texts(pipeline, arguments(pipeline))
    with attach(pipeline, [prompt, *GUIDANCE]), Watch(pipeline.unet, uncond) as seen:
        pipeline(**arguments(pipeline, **options))
    lefts = range(0, width if circular else 24, 8)
    plain = [call for call in seen.calls if not call.degraded]
    crops = [crop for call in plain for crop in call.crops]
    assert [(c.top, c.left, c.canvas) for c in crops] == [
        (0, left, (8, width)) for left in lefts for _ in range(2)
    ]
    with attach(pipeline, prompt):
        found = pipeline(**arguments(pipeline, **options))[0]

    wide = torch.cat([mask, mask], dim=1)
    parts = iter([wide[:, left : left + 64] for left in lefts])
    forward = pipeline.unet.forward

    def view_by_view(sample, timestep, encoder_hidden_states, **others):
        """Run the UNet of another copy on each view, with the part of the mask that it shows."""
        found = []
        for view in sample.split(2):
            part = patch_model(
                pipeline.unet, prompt.replace(mask=next(parts)), cond_or_uncond=(1, 0)
            )
            part.forward = types.MethodType(type(part).forward, part)
            found.append(part(view, timestep, encoder_hidden_states[:2]).sample)
        return UNet2DConditionOutput(torch.cat(found))

    try:
        pipeline.unet.forward = view_by_view
        expected = pipeline(**arguments(pipeline, **options))[0]
    finally:
        pipeline.unet.forward = forward
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


TAKE_AN_IP_ADAPTER = [
    "StableDiffusionXLAdapterPipeline",
    "StableDiffusionXLControlNetUnionPipeline",
    "LatentConsistencyModelPipeline",
    "AnimateDiffPipeline",
    "AnimateDiffSDXLPipeline",
    "AnimateDiffPAGPipeline",
    "AnimateDiffSparseControlNetPipeline",
    "PIAPipeline",
]


@pytest.mark.parametrize("name", TAKE_AN_IP_ADAPTER)
def test_the_same_as_their_own_ip_adapter(name):
    pipeline = make_pipeline(name)
    cond, uncond = (noise(1, 8, seed=seed) for seed in (COND_PICTURE, UNCOND_PICTURE))
    embeds = torch.stack([cond] if "LatentConsistency" in name else [uncond, cond])
    with attach(pipeline, make_image_prompt(pipeline.unet)):
        found = pipeline(**arguments(pipeline))[0]
    plain = pipeline(**arguments(pipeline))[0]
    state = make_adapter_state(pipeline.unet)
    pipeline.unet._load_ip_adapter_weights([state], low_cpu_mem_usage=False)
    try:
        pipeline.set_ip_adapter_scale(0.8)
        expected = pipeline(**arguments(pipeline, ip_adapter_image_embeds=[embeds]))[0]
    finally:
        pipeline.unload_ip_adapter()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert (found - plain).abs().max() > 1e-2


ORDERED = ["StableDiffusionInstructPix2PixPipeline", "StableDiffusionXLInstructPix2PixPipeline"]
ORDERED += ["StableDiffusionAdapterPipeline", "StableDiffusionGLIGENPipeline", "PIAPipeline"]
ORDERED += ["TextToVideoSDPipeline", "I2VGenXLPipeline", "AnimateDiffSparseControlNetPipeline"]
ORDERED += ["StableDiffusionUpscalePipeline", "StableUnCLIPImg2ImgPipeline"]


@pytest.mark.parametrize("name", ORDERED)
def test_the_order_of_guidance_does_not_matter(name):
    pipeline = make_pipeline(name)

    def run(patches):
        with attach(pipeline, patches), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return pipeline(**arguments(pipeline))[0]

    found = run(GUIDANCE)
    assert found.isfinite().all()
    torch.testing.assert_close(found, run(GUIDANCE[::-1]), rtol=0, atol=1e-5)


def test_no_guidance_where_the_pipeline_reads_attention_itself():
    name = "StableDiffusionSAGPipeline"
    with pytest.raises(ValueError, match="does not read attention itself, got StableDiffusionSAG"):
        watch(name, GUIDANCE)
    assert watch(name, GUIDANCE, sag_scale=0.0).degraded


def test_pipelines_that_do_not_tell():
    name = "SemanticStableDiffusionPipeline"
    pipeline = make_pipeline(name)
    with (
        attach(pipeline, make_image_prompt(pipeline.unet)),
        pytest.raises(ValueError, match=r"cond_or_uncond: .* a row|each concept that it edits"),
    ):
        pipeline(**arguments(pipeline))
    plain = pipeline(**arguments(pipeline))[0]
    with attach(pipeline, NearSightedTile()):
        pipeline(**arguments(pipeline))
    seen = []

    def tell(call):
        seen.append(call.pipeline)
        return 1, 0

    with attach(pipeline, make_image_prompt(pipeline.unet), cond_or_uncond=tell):
        assert (pipeline(**arguments(pipeline))[0] - plain).abs().max() > 1e-2
    assert seen == [pipeline] * 2


TWO_LEVELS = {"sample_size": 8, "layers_per_block": 1, "cross_attention_dim": 32}


def make_video_unet():
    """As StableVideoDiffusionPipeline has it."""
    return diffusers.UNetSpatioTemporalConditionModel(
        **TWO_LEVELS,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlockSpatioTemporal",) * 2,
        up_block_types=("CrossAttnUpBlockSpatioTemporal",) * 2,
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
        num_attention_heads=2,
    )


def make_unet_of(down, up, middle):
    return diffusers.UNet2DConditionModel(
        **TWO_LEVELS,
        block_out_channels=(16, 32),
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=down,
        up_block_types=up,
        mid_block_type=middle,
    )


def make_controlnet_xs(unet):
    adapter = diffusers.ControlNetXSAdapter.from_unet(unet, size_ratio=1.0)
    return diffusers.UNetControlNetXSModel.from_unet(unet, adapter)


OTHER_UNETS = {
    "along time": make_video_unet,
    "IF, Kandinsky": lambda: make_unet_of(
        ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "UNetMidBlock2DSimpleCrossAttn",
    ),
    "latent upscaler": lambda: make_unet_of(
        ("KDownBlock2D", "KCrossAttnDownBlock2D"), ("KCrossAttnUpBlock2D", "KUpBlock2D"), None
    ),
    "AudioLDM2": lambda: diffusers.AudioLDM2UNet2DConditionModel(
        **{**TWO_LEVELS, "cross_attention_dim": ((None, 8), (None, 8))},
        block_out_channels=(8, 16),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    ),
    "ControlNet-XS": lambda: make_controlnet_xs(diffusers_models.make_unet()),
}


@pytest.mark.parametrize("name", OTHER_UNETS)
def test_unets_of_another_structure_are_refused(name):
    with pytest.raises((TypeError, ValueError), match=r"model: .* UNet"):
        attach(OTHER_UNETS[name](), PerturbedAttentionGuidance(1.0))
