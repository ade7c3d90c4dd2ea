# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Guiders of three conditionings, and the host's own passes of uncond: patches know their rows."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from narrow_models import noise, prompt
from real_host import comfy, comfy_extras, relative, sample
from side_by_side import model_of, our_prompt, ours

import attnpatch as ap
from attnpatch.patches import KeyGain, TextKeys

nodes_perpneg, nodes_sag = map(
    import_module, ("comfy_extras.nodes_perpneg", "comfy_extras.nodes_sag")
)
SIZE = (16, 24)


def two_scales(model, conds, style="regular"):
    node = comfy_extras.nodes_custom_sampler.DualCFGGuider()
    return node.get_guider(model, *conds, 1.5, 7.5, style)[0]


def nested(model, conds):
    return two_scales(model, conds, "nested")


def perp_neg(model, conds):
    guider = nodes_perpneg.Guider_PerpNeg(model)
    positive, middle, negative = conds
    guider.set_conds(positive, negative, middle)
    guider.set_cfg(4.0, 1.0)
    return guider


def plain(model, conds):
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(conds[0], conds[2])
    guider.set_cfg(4.0)
    return guider


# What the numbers are that the host gives the conditionings of each.
GUIDERS = {two_scales: (1, 1, 0), nested: (1, 1, 0), perp_neg: (0, 1, 1)}


def run(make, model, steps=2):
    conds = [[prompt(model, seed)] for seed in (6, 90, 8)]
    guider = make(model, conds)
    sigmas = comfy.samplers.KSampler(model, steps, torch.device("cpu"), "euler", "normal").sigmas
    with torch.inference_mode():
        return guider.sample(
            noise(1, 4, *SIZE, seed=5),
            torch.zeros(1, 4, *SIZE),
            comfy.samplers.sampler_object("euler"),
            sigmas,
            disable_pbar=True,
            seed=9,
        ).clone()


@pytest.mark.parametrize("kind", ["image prompt", "words"])
@pytest.mark.parametrize("guider", GUIDERS, ids=lambda guider: guider.__name__)
def test_three_conditionings(guider, kind):
    """As where a user tells which number is of which role."""
    numbers = GUIDERS[guider]
    patch = our_prompt("sd1") if kind == "image prompt" else KeyGain(TextKeys((3, 5)), 6.0)
    told = ap.patch_model(
        model_of("sd1"),
        patch,
        cond_or_uncond=lambda call: [numbers[n] for n in call.options["cond_or_uncond"]],
    )
    right = run(guider, told)
    assert relative(right, run(guider, model_of("sd1"))) > 1e-3, "it has no effect"
    assert relative(run(guider, ap.patch_model(model_of("sd1"), patch)), right) < 1e-6


@pytest.mark.parametrize("guider", [two_scales, perp_neg], ids=lambda guider: guider.__name__)
def test_what_guidance_records_is_of_its_own_uncond(guider):
    patched = ap.patch_model(model_of("sd1"), ap.SelfAttentionGuidance(0.7))
    run(plain, patched, steps=1)
    expected = ap.recorded_attention(patched).clone()
    run(guider, patched, steps=1)
    assert relative(ap.recorded_attention(patched), expected) < 1e-5


def test_the_hosts_own_pass_of_uncond():
    """Its self-attention guidance runs uncond alone, as number 0."""

    def told(call):
        numbers = call.options["cond_or_uncond"]
        return [1] if len(numbers) == 1 else numbers

    def guided(model):
        return sample(nodes_sag.SelfAttentionGuidance.execute(model, 0.7, 1.5)[0], size=(32, 24))

    told = ap.patch_model(model_of("sd1"), our_prompt("sd1"), cond_or_uncond=told)
    assert relative(guided(ours("sd1")), guided(told)) < 1e-6
