# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Packages that keep features from step to step, and processors that perturb rows themselves."""

import diffusers
import pytest
import torch
from DeepCache import DeepCacheSDHelper
from diffusers_models import make_prompt, make_unet, unet_inputs
from test_diffusers_guidance import HEADS, lively, run
from test_diffusers_pipelines import make_pipeline

from attnpatch import (
    PerturbedAttentionGuidance,
    SelfAttentionGuidance,
    SmoothedEnergyGuidance,
    patch_model,
    recorded_attention,
)
from attnpatch.hosts import attach

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

SMALL = {"size": (16, 16), "num_inference_steps": 4}


def pipeline(**options):
    return make_pipeline("sd1", unet=lively(make_unet("sd1", attention_head_dim=HEADS)), **options)


def cached(pipe, interval=2):
    helper = DeepCacheSDHelper(pipe=pipe)
    helper.set_params(cache_interval=interval, cache_branch_id=0)
    helper.enable()
    return helper


NOTHING = [
    SelfAttentionGuidance(0.5, blur_sigma=0.0),
    SmoothedEnergyGuidance(3.0, blur_sigma=0.0),
    PerturbedAttentionGuidance(1e-9),
]


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("guidance", NOTHING, ids=lambda g: type(g).__name__)
def test_degraded_passes_leave_nothing_in_a_cache(guidance, scale):
    """Guidance by passes that are not degraded changes nothing, in whole steps and in kept ones."""
    pipe = pipeline()
    cached(pipe)
    plain = run(pipe, guidance_scale=scale, **SMALL)
    with attach(pipe, guidance):
        found = run(pipe, guidance_scale=scale, **SMALL)
    atol = 1e-4 * float(plain.std())
    torch.testing.assert_close(found, plain, rtol=0, atol=atol)


@pytest.mark.parametrize("stack", [[SelfAttentionGuidance(0.5)], [PerturbedAttentionGuidance(3.0)]])
def test_where_nothing_is_kept_it_is_as_without(stack):
    plain, caching = pipeline(), pipeline()
    cached(caching, interval=1)
    with attach(plain, stack):
        expected = run(plain, **SMALL)
    with attach(caching, stack):
        found = run(caching, **SMALL)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.std()))


def test_a_window_may_begin_in_a_step_that_is_kept():
    pipe = pipeline()
    cached(pipe)
    late = [PerturbedAttentionGuidance(3.0, start=0.3), SelfAttentionGuidance(0.5, end=0.6)]
    with attach(pipe, late):
        found = run(pipe, **SMALL)
        assert found.isfinite().all() and recorded_attention(pipe).shape == (1, 2, 2)


def test_a_patched_copy_keeps_features_of_its_own():
    pipe = pipeline()
    prompt = make_prompt(pipe.unet)
    cached(pipe)
    plain = run(pipe, **SMALL)
    with attach(pipe, prompt):
        expected = run(pipe, **SMALL)
    patched = patch_model(pipe, prompt)
    torch.testing.assert_close(run(patched, **SMALL), expected, rtol=0, atol=1e-5)
    assert torch.equal(run(pipe, **SMALL), plain)


def test_caches_of_hooks_are_refused_by_name():
    from diffusers import PyramidAttentionBroadcastConfig
    from diffusers.hooks import apply_pyramid_attention_broadcast

    unet = make_unet()
    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_block_identifiers=("blocks",),
        current_timestep_callback=lambda: 500,
    )
    apply_pyramid_attention_broadcast(unet, config)
    with (
        attach(unet, SelfAttentionGuidance(), cond_or_uncond=(1, 0)),
        torch.no_grad(),
        pytest.raises(ValueError, match=r"guidance: .* the hook 'pyramid_attention_broadcast'"),
    ):
        unet(**unet_inputs(unet))


OWN = [
    (diffusers.StableDiffusionPAGPipeline, 3.0),
    (diffusers.StableDiffusionPAGPipeline, 1.0),
]


@pytest.mark.parametrize(("kind", "scale"), OWN)
@pytest.mark.parametrize("guidance", NOTHING[:2], ids=lambda g: type(g).__name__)
def test_rows_that_a_pipeline_perturbs_are_not_perturbed_in_degraded_passes(kind, scale, guidance):
    pipe = pipeline(kind=kind, pag_applied_layers=["mid", "down_blocks.1"])
    options = {**SMALL, "guidance_scale": scale, "pag_scale": 2.0}
    plain = run(pipe, **options)
    originals = dict(pipe.unet.attn_processors)
    for stack in (guidance, [guidance, make_prompt(pipe.unet, weight=0.0)]):
        with attach(pipe, stack):
            found = run(pipe, **options)
        torch.testing.assert_close(found, plain, rtol=0, atol=1e-4 * float(plain.std()))
    assert all(pipe.unet.attn_processors[name] is p for name, p in originals.items())


@pytest.mark.parametrize(("kind", "scale"), OWN)
def test_both_kinds_of_perturbed_attention_add(kind, scale):
    """Ours at one place and the pipeline's at another: the sum of what each adds, in one step."""
    options = {**SMALL, "num_inference_steps": 1, "guidance_scale": scale}
    ours = PerturbedAttentionGuidance(2.0, blocks="u1")
    pipe = pipeline(kind=kind, pag_applied_layers=["mid"])
    with attach(pipe, ours):
        both = run(pipe, pag_scale=3.0, **options)
        alone = run(pipe, pag_scale=0.0, **options)
    theirs, neither = (run(pipe, pag_scale=s, **options) for s in (3.0, 0.0))
    expected = theirs + (alone - neither)
    torch.testing.assert_close(both, expected, rtol=0, atol=1e-4 * float(expected.std()))
    assert (alone - neither).abs().max() > 1e-3 * expected.std()
