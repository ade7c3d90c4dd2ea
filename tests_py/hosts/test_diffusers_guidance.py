# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Guidance by degraded passes in pipelines of diffusers, beside diffusers' own."""

import diffusers
import pytest
import torch
from diffusers.pipelines.deprecated.stable_diffusion_sag import StableDiffusionSAGPipeline
from diffusers_models import make_unet
from test_diffusers_pipelines import SD, arguments, make_pipeline

from attnpatch import PerturbedAttentionGuidance, SelfAttentionGuidance, SmoothedEnergyGuidance
from attnpatch.hosts import attach
from attnpatch.hosts.diffusers import share_weights
from attnpatch.hosts.diffusers.prediction import Prediction
from attnpatch.hosts.diffusers.schedule import Schedule
from attnpatch.patches import degraded_passes, guide

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*StableDiffusionSAGPipeline.*:FutureWarning"),
]

HEADS = [1, 2, 2, 2]  # a list: diffusers' own pipeline asks for one


def lively(unet):
    """Make self-attention count: random weights leave it flat, and its share small."""
    for name, parameter in unet.named_parameters():
        if ".attn1." in name and parameter.dim() == 2:
            parameter.mul_(2.0)
        if "conv_out" in name:
            parameter.mul_(3.0)
    return unet


def pipelines(structure, own, scheduler="DDIMScheduler", prediction="epsilon", **options):
    """A plain pipeline and diffusers' own guided one, of one UNet."""
    unet = make_unet("sd1", attention_head_dim=HEADS) if structure == "sd1" else None
    unet = lively(unet or make_unet(structure))
    config = SD | {"prediction_type": prediction}
    if scheduler == "DDIMScheduler":
        config["clip_sample"] = False
    make = getattr(diffusers, scheduler)
    plain = make_pipeline(structure, unet=unet)
    theirs = make_pipeline(structure, kind=own, unet=unet, **options)
    plain.scheduler, theirs.scheduler = make(**config), make(**config)
    return plain, theirs


def predict_noise(pipeline, prediction):
    """Turn what a pipeline's UNet predicts into noise, for which the formula of SAG is made.

    The pipeline takes the same sum over other predictions, which is another formula.
    """
    scheduler = pipeline.scheduler
    scheduler.register_to_config(prediction_type="epsilon")

    def hook(unet, args, kwargs, output):
        alpha = scheduler.alphas_cumprod[args[1]]
        signal, noise = alpha**0.5, (1 - alpha) ** 0.5
        if prediction == "v_prediction":
            output.sample = signal * output.sample + noise * args[0]
        elif prediction == "sample":
            output.sample = (args[0] - signal * output.sample) / noise
        return output

    pipeline.unet.register_forward_hook(hook, with_kwargs=True)


def latents(batch, height, width):
    return torch.randn(batch, 4, height, width, generator=torch.Generator().manual_seed(9))


def run(pipeline, size=(32, 24), prompts=1, **options):
    options = {
        "latents": latents(prompts, *size),
        "height": 8 * size[0],
        "width": 8 * size[1],
        "num_inference_steps": 2,
    } | options
    return pipeline(**arguments(pipeline, prompts, **options)).images


def close(found, expected, plain):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.std()))
    assert (found - plain).abs().max() > 1e-3 * expected.std(), "guidance does nothing"


CASES = [
    # scheduler, what is predicted, guidance scale, size, prompts
    ("DDIMScheduler", "epsilon", 3.0, (32, 24), 2),
    ("DDIMScheduler", "v_prediction", 3.0, (24, 17), 1),
    ("DDIMScheduler", "sample", 3.0, (16, 24), 1),
    ("DDIMScheduler", "epsilon", 1.0, (17, 24), 2),
    ("DPMSolverMultistepScheduler", "epsilon", 7.5, (16, 24), 1),
    ("DEISMultistepScheduler", "epsilon", 3.0, (24, 24), 1),
]


@pytest.mark.parametrize(("scheduler", "prediction", "scale", "size", "prompts"), CASES)
def test_equals_the_pipeline_for_self_attention_guidance(
    scheduler, prediction, scale, size, prompts
):
    plain, theirs = pipelines("sd1", StableDiffusionSAGPipeline, scheduler, prediction)
    theirs.unet = share_weights(plain.unet)
    predict_noise(theirs, prediction)
    options = {"size": size, "prompts": prompts, "guidance_scale": scale}
    unguided = run(plain, **options)
    expected = run(theirs, sag_scale=0.75, **options)
    with attach(plain, SelfAttentionGuidance(0.75, blur_sigma=1.0)):
        found = run(plain, **options)
    close(found, expected, unguided)
    assert torch.equal(run(plain, **options), unguided)


PAG = [
    # structure, guidance scale, their layers, our blocks
    ("sd1", 3.0, "mid", "m0"),
    ("sd1", 1.0, "mid", "m0"),
    ("sd1", 3.0, ["down_blocks.1", "up_blocks.1.attentions.2"], "d2-3,u2"),
    ("sdxl", 3.0, "mid_block.attentions.0.transformer_blocks.3", "m0.3"),
]


@pytest.mark.parametrize(("structure", "scale", "layers", "blocks"), PAG)
def test_equals_the_pipeline_for_perturbed_attention_guidance(structure, scale, layers, blocks):
    own = {
        "sd1": diffusers.StableDiffusionPAGPipeline,
        "sdxl": diffusers.StableDiffusionXLPAGPipeline,
    }[structure]
    plain, theirs = pipelines(structure, own, pag_applied_layers=layers)
    originals = dict(plain.unet.attn_processors)
    options = {"size": (16, 16), "prompts": 2, "guidance_scale": scale}
    unguided = run(plain, **options)
    expected = run(theirs, pag_scale=2.0, **options)
    plain.unet.set_attn_processor(originals)
    with attach(plain, PerturbedAttentionGuidance(2.0, blocks=blocks)):
        found = run(plain, **options)
    close(found, expected, unguided)


SCHEDULERS = [
    ("DDIMScheduler", SD | {"clip_sample": False}),
    ("DDIMScheduler", SD | {"clip_sample": False, "prediction_type": "v_prediction"}),
    ("DDIMScheduler", SD | {"clip_sample": False, "prediction_type": "sample"}),
    ("EulerDiscreteScheduler", SD),
    ("EulerDiscreteScheduler", SD | {"prediction_type": "v_prediction"}),
    ("EulerDiscreteScheduler", SD | {"use_karras_sigmas": True}),
    ("HeunDiscreteScheduler", SD),
    ("EDMEulerScheduler", {}),
    ("EDMEulerScheduler", {"prediction_type": "v_prediction"}),
    ("FlowMatchEulerDiscreteScheduler", {}),
]


@pytest.mark.parametrize(("name", "config"), SCHEDULERS)
def test_the_clean_picture_is_what_the_scheduler_makes_of_it(name, config):
    scheduler = getattr(diffusers, name)(**config)
    scheduler.set_timesteps(7)
    generator = torch.Generator().manual_seed(3)
    for i in (0, 4, 5):
        timestep = scheduler.timesteps[i]
        sample, output, change = torch.randn(3, 1, 4, 8, 8, generator=generator).double()
        scheduler._step_index = None
        given = sample
        if hasattr(scheduler, "scale_model_input"):
            given = scheduler.scale_model_input(sample, timestep)
        if hasattr(scheduler, "alphas_cumprod") and hasattr(scheduler, "sigmas"):
            sigma = float(scheduler.sigmas[scheduler.step_index])
        schedule = Schedule(scheduler)
        moment = schedule(float(timestep))
        prediction = Prediction.at(moment.sigma, schedule, scheduler.config)
        found = prediction.clean(given, output)
        if name.startswith("Flow"):
            expected = sample - moment.sigma * output
        elif name.startswith("Heun"):
            expected = sample - sigma * output
        else:
            expected = scheduler.step(output, timestep, sample).pred_original_sample
        torch.testing.assert_close(found, expected.float(), rtol=2e-4, atol=2e-4)
        scheduler._step_index = None
        if hasattr(scheduler, "add_noise") and hasattr(scheduler, "scale_model_input"):
            # Another clean picture under the same noise.
            noisy = scheduler.add_noise(change, torch.zeros_like(change), timestep[None])
            expected = scheduler.scale_model_input(noisy, timestep)
            torch.testing.assert_close(prediction.signal * change, expected, rtol=2e-4, atol=2e-4)


def test_unknown_predictions_are_named():
    with pytest.raises(ValueError, match=r"prediction types epsilon, .* got 'magic'"):
        Prediction.at(1.0, Schedule(), {"prediction_type": "magic"})


class Counter:
    """Counts the calls of a UNet and their rows."""

    def __init__(self, unet):
        self.rows = []
        unet.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module, args, kwargs):
        self.rows.append(len(args[0] if args else kwargs["sample"]))


def test_all_degraded_passes_of_a_step_are_one_call():
    """And what they add is the sum of what each adds alone."""
    pipeline = make_pipeline(unet=lively(make_unet()))
    options = {"num_inference_steps": 1, "prompts": 2}
    stack = [
        SelfAttentionGuidance(0.7),
        PerturbedAttentionGuidance(15.0),
        SmoothedEnergyGuidance(20.0, blur_sigma=0.8, blocks="m0,u3"),
        SmoothedEnergyGuidance(10.0),
    ]
    plain = run(pipeline, **options)
    added = 0.0
    for guidance in stack:
        with attach(pipeline, guidance):
            term = run(pipeline, **options) - plain
        assert term.abs().max() > 1e-3 * plain.std(), guidance
        added = added + term
    counter = Counter(pipeline.unet)
    with attach(pipeline, stack):
        found = run(pipeline, **options)
    assert counter.rows == [4, 8]
    torch.testing.assert_close(found, plain + added, rtol=0, atol=1e-4 * float(plain.std()))


def test_scales_of_pictures():
    """Two images of each of two prompts: one prompt is guided, the other not."""
    pipeline = make_pipeline(unet=lively(make_unet()))
    options = {"prompts": 2, "num_images_per_prompt": 2, "latents": latents(4, 16, 16)}
    options |= {"size": (16, 16)}
    plain = run(pipeline, **options)
    with attach(pipeline, SelfAttentionGuidance(2.0)):
        both = run(pipeline, **options)
    with attach(pipeline, SelfAttentionGuidance(torch.tensor([0.0, 2.0]))):
        found = run(pipeline, **options)
    torch.testing.assert_close(found, torch.cat([plain[:2], both[2:]]), rtol=0, atol=1e-4)
    assert (both - plain).flatten(1).abs().amax(1).min() > 1e-2


def test_saliency_decides_between_two_guidances():
    """In a step of Euler to no noise, which gives the prediction of x0 itself."""
    pipeline = make_pipeline(unet=lively(make_unet()), scheduler="EulerDiscreteScheduler")
    options = {"size": (16, 16), "num_inference_steps": 1}
    negative = arguments(pipeline)["negative_prompt_embeds"]
    cfg, cond = (run(pipeline, guidance_scale=scale, **options) for scale in (3.0, 1.0))
    uncond = run(pipeline, guidance_scale=1.0, prompt_embeds=negative, **options)
    with attach(pipeline, PerturbedAttentionGuidance(20.0)):
        term = run(pipeline, guidance_scale=3.0, **options) - cfg
    with attach(pipeline, PerturbedAttentionGuidance(20.0, rescale_mode="snf")):
        found = run(pipeline, guidance_scale=3.0, **options)
        alone = run(pipeline, guidance_scale=1.0, **options)
    passes = degraded_passes([PerturbedAttentionGuidance(1.0, rescale_mode="snf")], (16, 16), None)
    expected = cfg + guide(cfg, cond, uncond, passes, [term], [torch.zeros_like(term)])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(alone, cond + term, rtol=0, atol=1e-3)


def test_windows_and_small_latents():
    pipeline = make_pipeline(unet=lively(make_unet()))
    counter = Counter(pipeline.unet)
    with attach(pipeline, [SelfAttentionGuidance(start=0.5), PerturbedAttentionGuidance(end=0.3)]):
        run(pipeline, num_inference_steps=4)
        assert counter.rows == [2, 1, 2, 2, 1, 2, 1]
    plain = run(pipeline, size=(4, 32))
    with attach(pipeline, SelfAttentionGuidance()):
        assert torch.equal(run(pipeline, size=(4, 32)), plain)
