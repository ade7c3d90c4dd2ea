# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Guidance beside the host's own nodes, sampled side by side in the real ComfyUI."""

from __future__ import annotations

from functools import cache
from importlib import import_module

import pytest
import torch
from narrow_models import make_model, noise, prompt
from real_host import relative, sample

import attnpatch as ap

# The host can be imported once `real_host` is.
nodes_sag, nodes_pag, comfy_sample = map(
    import_module, ("comfy_extras.nodes_sag", "comfy_extras.nodes_pag", "comfy.sample")
)
TOLERANCE = 1e-4


@cache
def model_of(family):
    """Let the middle block's self-attention count, which random weights leave flat."""
    model = make_model(family)
    with torch.no_grad():
        for name, parameter in model.model.diffusion_model.named_parameters():
            if name.startswith("middle_block.1") and ".attn1.to_" in name and parameter.ndim == 2:
                parameter.mul_(2.0)
    return model


def their_sag(model, scale, sigma):
    return nodes_sag.SelfAttentionGuidance.execute(model, scale, sigma).result[0]


def their_pag(model, scale):
    return nodes_pag.PerturbedAttentionGuidance.execute(model, scale).result[0]


def check(family, ours, theirs, effect=1e-3, **options):
    """Compare two guided models' pictures, and see that guidance did something at all."""
    expected = sample(theirs, **options)
    assert relative(expected, sample(model_of(family), **options)) > effect, "it has no effect"
    assert relative(sample(ours, **options), expected) < TOLERANCE


# Sizes on which the node's own guess of the token grid is right.
CASES = [
    ("sd1", {"size": (32, 24)}),
    ("sd1", {"size": (24, 40), "batch": 2}),
    ("sd1", {"size": (32, 32), "cfg": 1.0}),
    ("sdxl", {"size": (16, 24)}),
]


@pytest.mark.parametrize(("family", "options"), CASES)
def test_equals_the_node_for_self_attention_guidance(family, options):
    model = model_of(family)
    ours = ap.patch_model(model, ap.SelfAttentionGuidance(0.7, blur_sigma=1.5))
    check(family, ours, their_sag(model, 0.7, 1.5), **options)


@pytest.mark.parametrize(("family", "options"), CASES)
def test_equals_the_node_for_perturbed_attention_guidance(family, options):
    model = model_of(family)
    ours = ap.patch_model(model, ap.PerturbedAttentionGuidance(4.0))
    check(family, ours, their_pag(model, 4.0), **options)


def test_both_add_what_each_node_adds():
    """A chain of the nodes does not: the slot of one hides the other's."""
    model, options = model_of("sd1"), {"size": (32, 24), "batch": 2, "steps": 1}
    stack = [ap.SelfAttentionGuidance(0.7, blur_sigma=1.5), ap.PerturbedAttentionGuidance(4.0)]
    plain = sample(model, **options)
    theirs = [sample(m, **options) for m in (their_sag(model, 0.7, 1.5), their_pag(model, 4.0))]
    expected = sum(theirs) - plain
    assert relative(expected, plain) > 1e-3
    assert relative(sample(ap.patch_model(model, stack), **options), expected) < TOLERANCE


def test_masks_of_cond():
    model = model_of("sd1")
    mask = torch.zeros(1, 256, 192)
    mask[:, :, :96] = 1.0
    positive = [
        prompt(model, 6),
        prompt(model, 26, mask=mask, mask_strength=1.0, set_area_to_bounds=False),
    ]
    options = {"size": (32, 24), "positive": positive}
    sag, pag = ap.SelfAttentionGuidance(0.7), ap.PerturbedAttentionGuidance(4.0)
    check("sd1", ap.patch_model(model, sag), their_sag(model, 0.7, 2.0), **options)
    check("sd1", ap.patch_model(model, pag), their_pag(model, 4.0), **options)


def test_sizes_and_conditionings_that_the_node_fails_on():
    model = model_of("sd1")
    ours = ap.patch_model(model, [ap.SelfAttentionGuidance(0.7, blur_sigma=0.0)])
    for size in [(53, 8), (37, 29), (5, 6)]:
        assert sample(ours, size=size).isfinite().all()
    # The host gives uncond the areas of cond; the node takes the last one's map for the whole.
    positive = [prompt(model, 6), prompt(model, 16, area=(16, 24, 8, 0), strength=1.5)]
    negative = [prompt(model, 8, area=(32, 12, 0, 0)), prompt(model, 18, area=(32, 12, 0, 12))]
    ours = ap.patch_model(model, [ap.SelfAttentionGuidance(0.7), ap.PerturbedAttentionGuidance()])
    for given in ({"positive": positive}, {"negative": negative, "batch": 2}):
        options = {"size": (32, 24), "steps": 1} | given
        found = sample(ours, **options)
        assert found.isfinite().all()
        assert relative(found, sample(model, **options)) > 1e-3


def test_the_passes_of_one_input_are_one_call():
    model = model_of("sd1")
    stack = [
        ap.SelfAttentionGuidance(0.7),
        ap.PerturbedAttentionGuidance(3.0),
        ap.SmoothedEnergyGuidance(3.0),
    ]
    calls = []

    def count(function, args):
        calls.append(args["cond_or_uncond"])
        return function(args["input"], args["timestep"], **args["c"])

    ours = ap.patch_model(model, stack)
    ours.set_model_unet_function_wrapper(count)
    found = sample(ours, size=(32, 24), steps=1)
    assert [sorted(kinds) for kinds in calls] == [[0, 1], [1], [0, 0]]
    one_by_one = model
    for guidance in stack:
        one_by_one = ap.patch_model(one_by_one, guidance)
    assert relative(sample(one_by_one, size=(32, 24), steps=1), found) < 1e-6


def test_a_sampler_of_the_second_order_and_a_model_that_is_used_twice():
    model = model_of("sd1")
    ours = ap.patch_model(model, ap.SelfAttentionGuidance(0.7))
    theirs = their_sag(model, 0.7, 2.0)

    def run(patched):
        with torch.inference_mode():
            return comfy_sample.sample(
                patched,
                noise(1, 4, 32, 24, seed=5),
                2,
                4.0,
                "heun",
                "karras",
                [prompt(model, 6)],
                [prompt(model, 8)],
                torch.zeros(1, 4, 32, 24),
                disable_pbar=True,
                seed=9,
            ).clone()

    expected = run(theirs)
    for _ in range(2):
        assert relative(run(ours), expected) < TOLERANCE


def test_a_cache_around_the_network():
    """It keeps what each conditioning gave; a degraded pass is not the cond that it starts from."""
    model = model_of("sd1")
    guided = ap.patch_model(model, ap.PerturbedAttentionGuidance(4.0))

    def cached(guided, told_apart):
        kept, steps, made = {}, {}, guided.clone()

        def wrapper(execute, x, *args, **kwargs):
            told = next((a for a in args if isinstance(a, dict)), kwargs.get("transformer_options"))
            step = steps.setdefault(float(told["sigmas"][0]), len(steps))
            degraded = told_apart and len(x) == 1
            keys = [(degraded, uuid) for uuid in told["uuids"]]
            if step % 2 and all(key in kept for key in keys):
                return torch.cat([kept[key] for key in keys])
            output = execute(x, *args, **kwargs)
            kept.update(zip(keys, output.split(1), strict=True))
            return output

        made.add_wrapper_with_key("diffusion_model", "cache", wrapper)
        return made

    found, expected = (sample(cached(guided, apart), steps=8) for apart in (False, True))
    assert relative(found, expected) < 1e-6
    assert relative(expected, sample(guided, steps=8)) > 1e-3


def test_degraded_passes_are_no_pair_for_others():
    """The host's normalized attention takes a cond and an uncond row of a call for a pair."""
    try:
        node = import_module("comfy_extras.nodes_nag").NAGuidance
    except ModuleNotFoundError:
        pytest.skip("this ComfyUI has no NAGuidance")

    def guided(*patches):
        model = node.execute(model_of("sd1"), 5.0, 0.5, 1.5).result[0]
        return sample(ap.patch_model(model, patches) if patches else model, steps=1)

    sag, pag = ap.SelfAttentionGuidance(0.7), ap.PerturbedAttentionGuidance(3.0)
    plain = guided()
    expected = guided(sag) + guided(pag) - plain
    assert relative(expected, plain) > 1e-3
    assert relative(plain, sample(model_of("sd1"), steps=1)) > 1e-3, "their node has no effect"
    assert relative(guided(sag, pag), expected) < 1e-5
