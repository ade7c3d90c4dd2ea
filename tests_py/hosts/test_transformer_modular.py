# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Modular pipelines of transformers: each prediction in a call of its own, or cond alone."""

import diffusers
import pytest
import torch
from diffusers import guiders, modular_pipelines
from diffusers.hooks import HookRegistry, LayerSkipConfig, apply_layer_skip
from transformer_models import CASES, TEXT
from transformer_pipelines import SIZE, embeds, rand

import attnpatch as ap

pytestmark = pytest.mark.filterwarnings("ignore")  # diffusers' own

BOTH = {"prompt_embeds": True, "negative_prompt_embeds": True}
POOLED = {"pooled_prompt_embeds": True, "negative_pooled_prompt_embeds": True}
MASKS = {
    f"{sign}prompt_embeds_mask": torch.ones(1, TEXT, dtype=torch.bool) for sign in ("", "negative_")
}
PIPELINES = {
    # the family, the pipeline's inputs, and whether it has a guider
    "FluxAutoBlocks": (
        "Flux",
        {**embeds(1, TEXT, 12, prompt_embeds=True), **embeds(1, 10, pooled_prompt_embeds=True)},
        False,
    ),
    "Flux2KleinAutoBlocks": ("Flux2", embeds(1, TEXT, 12, prompt_embeds=True), False),
    "Flux2KleinBaseAutoBlocks": ("Flux2", embeds(1, TEXT, 12, **BOTH), True),
    "Krea2AutoBlocks": ("Krea2", {**embeds(1, TEXT, 2, 12, **BOTH), **MASKS}, True),
    "Krea2TurboAutoBlocks": (
        "Krea2",
        {
            **embeds(1, TEXT, 2, 12, prompt_embeds=True),
            "prompt_embeds_mask": torch.ones(1, TEXT, dtype=torch.bool),
        },
        False,
    ),
    "QwenImageAutoBlocks": ("QwenImage", {**embeds(1, TEXT, 12, **BOTH), **MASKS}, True),
    "ZImageAutoBlocks": (
        "ZImage",
        {"prompt_embeds": [rand(TEXT, 12)], "negative_prompt_embeds": [rand(TEXT - 2, 12, seed=3)]},
        True,
    ),
    "StableDiffusion3AutoBlocks": (
        "SD3",
        {**embeds(1, TEXT, 12, **BOTH), **embeds(1, 10, **POOLED)},
        True,
    ),
}


def make(name, guided=True):
    family, inputs, has_guider = PIPELINES[name]
    pipeline = getattr(modular_pipelines, name)().sub_blocks["denoise"].init_pipeline()
    parts = {"transformer": CASES[f"{family}Transformer2DModel"].make()}
    if has_guider:
        parts["guider"] = guiders.ClassifierFreeGuidance(4.0 if guided else 1.0)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    pipeline.update_components(scheduler=scheduler, **parts)
    return pipeline, inputs


def run(pipeline, inputs):
    generator = torch.Generator().manual_seed(0)
    return pipeline(**inputs, **SIZE | {"output": "latents"}, generator=generator)


def told_by(inputs):
    """Say of a call which role its text has."""
    cond = inputs["prompt_embeds"]

    def tell(call):
        text = call.encoder_hidden_states
        if isinstance(cond, list):
            text, own = text[0], cond[0]
        else:
            own = cond
        return (0,) if text.shape == own.shape and torch.equal(text, own.to(text)) else (1,)

    return tell


@pytest.mark.parametrize(
    ("name", "guided"),
    [
        (name, guided)
        for name, entry in PIPELINES.items()
        for guided in (True, False)[: 1 + entry[2]]
    ],
)
def test_gains_and_guidance_of_cond_alone(name, guided):
    pipeline, inputs = make(name, guided)
    cond = inputs["prompt_embeds"]
    shape = (1, *cond[0].shape)
    plain = run(pipeline, inputs)
    for patch in (
        ap.KeyGain(ap.TextKeys((1,)), 5.0, rows="all"),
        ap.NormalizedAttentionGuidance(rand(*shape, seed=9), scale=6.0, alpha=0.9),
    ):
        with ap.attach(pipeline, patch):
            found = run(pipeline, inputs)
        with ap.attach(pipeline.transformer, patch, cond_or_uncond=told_by(inputs)):
            right = run(pipeline, inputs)
        assert torch.equal(found, right)
        assert not torch.allclose(found, plain, atol=1e-3)
    assert torch.equal(run(pipeline, inputs), plain)


def test_words_are_not_found_without_an_encoder():
    pipeline, _ = make("FluxAutoBlocks")
    with pytest.raises(TypeError, match=r"expected a pipeline .* encodes prompts, got FluxModular"):
        ap.word_weights(pipeline, "a (red:1.4) hat")


@pytest.mark.parametrize("name", ["Krea2AutoBlocks", "Krea2TurboAutoBlocks"])
def test_texts_that_a_pipeline_brings_to_another_dtype(name):
    pipeline, inputs = make(name)
    pipeline.transformer.to(torch.bfloat16)
    patch = ap.KeyGain(ap.TextKeys((1,)), 5.0)
    with ap.attach(pipeline, patch):
        found = run(pipeline, inputs)
    with ap.attach(pipeline.transformer, patch, cond_or_uncond=told_by(inputs)):
        assert torch.equal(found, run(pipeline, inputs))


SKIPPED = {
    # where blocks are, of models whose attention diffusers' guiders can skip
    "QwenImageTransformer2DModel": "transformer_blocks",
    "ZImageTransformer2DModel": "layers",
}


@pytest.mark.parametrize("first", ["hook", "patch"])
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("name", SKIPPED)
def test_attention_whose_scores_a_guider_skips(name, zero, first):
    """There are no scores that a gain could change; in all other layers it acts."""
    model, arguments = CASES[name].make(), CASES[name].arguments(1)
    if "encoder_hidden_states_mask" in arguments:
        arguments["encoder_hidden_states_mask"] = None  # as pipelines give it
    config = LayerSkipConfig([0], SKIPPED[name], skip_attention=False, skip_attention_scores=True)
    config.skip_ff = False
    negative = rand(1, TEXT, 12, seed=9)
    gains = [
        ap.KeyGain(ap.TextKeys((1,)), 0.0 if zero else 5.0, rows="all", weight=weight)
        for weight in (1.0, {1: 1.0})
    ]
    pictures = []
    for gain in gains:
        patches = [gain, ap.NormalizedAttentionGuidance(negative, scale=4.0)]
        attachment = None
        if first == "patch":
            attachment = ap.attach(model, patches, cond_or_uncond=(0,))
        apply_layer_skip(model, config)
        attachment = attachment or ap.attach(model, patches, cond_or_uncond=(0,))
        with attachment, torch.no_grad():
            out = model(**arguments, return_dict=False)[0]
        HookRegistry.check_if_exists_or_initialize(model).remove_hook("layer_skip_hook")
        pictures.append(torch.stack(list(out)) if isinstance(out, list) else out)
    assert torch.isfinite(pictures[0]).all()
    assert torch.equal(*pictures)


@pytest.mark.parametrize("name", ["QwenImageAutoBlocks", "ZImageAutoBlocks"])
def test_a_guider_that_perturbs_attention(name):
    """It looks for what it skips by the class of a processor, in the midst of sampling."""
    pipeline, inputs = make(name)
    blocks = SKIPPED[f"{PIPELINES[name][0]}Transformer2DModel"]
    config = LayerSkipConfig([0], blocks, skip_attention=False, skip_attention_scores=True)
    config.skip_ff = False
    guider = guiders.PerturbedAttentionGuidance(
        4.0,
        perturbed_guidance_config=config,
        perturbed_guidance_start=0.0,
        perturbed_guidance_stop=1.0,
    )
    pipeline.update_components(guider=guider)
    plain = run(pipeline, inputs)
    with ap.attach(pipeline, ap.KeyGain(ap.TextKeys((1,)), 5.0, rows="all")):
        found = run(pipeline, inputs)
    assert torch.isfinite(found).all() and not torch.allclose(found, plain, atol=1e-3)
    assert torch.equal(run(pipeline, inputs), plain)
