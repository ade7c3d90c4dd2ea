# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What is attached to a model is told, taken off and replaced, whoever attached it."""

import copy
import logging

import pytest
import torch
from attach_case import GUIDED, original, prompt, run
from diffusers_models import is_original, make_prompt, make_unet
from test_diffusers_pipelines import make_pipeline

import attnpatch as ap
from attnpatch.hosts.diffusers import share_weights


@pytest.fixture
def unet():
    return share_weights(original())


def test_detach_takes_everything_off(unet):
    plain = run(unet)
    handles = [ap.attach(unet, prompt(seed), **GUIDED) for seed in range(2)]
    assert ap.attached(unet) == ap.PatchStack([prompt(0), prompt(1)])
    ap.detach(unet)
    assert is_original(unet)
    assert torch.equal(run(unet), plain)
    assert ap.attached(unet) == ap.PatchStack()
    ap.detach(unet)  # nothing is attached: nothing happens
    new = ap.attach(unet, prompt(2), **GUIDED)
    for handle in handles:
        assert not handle.attached
        assert not handle.in_use
        assert "detached from UNet2DConditionModel" in repr(handle)
        handle.detach()  # of what is gone: the new patch stays
    assert new.attached
    assert ap.attached(unet) == ap.PatchStack([prompt(2)])


def test_detach_of_a_patched_copy(unet):
    plain = run(unet)
    handle = ap.attach(unet, prompt(0), **GUIDED)
    for twin in (ap.patch_model(unet, prompt(1)), copy.deepcopy(unet)):
        assert prompt(0) in ap.attached(twin)
        ap.detach(twin)
        assert is_original(twin)
        assert torch.equal(run(twin), plain)
    assert handle.attached
    assert ap.attached(unet) == handle.stack


@pytest.mark.parametrize("copied", [lambda unet: unet, copy.deepcopy])
def test_what_was_told_of_rows_goes_with_its_patches(unet, copied):
    ap.attach(unet, prompt(0), cond_or_uncond=(0,))
    expected = run(unet)
    ap.detach(unet)
    first = ap.attach(unet, prompt(0))
    second = ap.attach(unet, prompt(1), cond_or_uncond=(1, 0))
    assert torch.equal(run(copied(unet)), run(unet))
    second.detach()
    with pytest.raises(ValueError, match="cond_or_uncond: expected to be told"):
        run(copied(unet))
    ap.attach(unet, prompt(1).replace(weight=0.0), cond_or_uncond=(0,))
    assert torch.equal(run(copied(unet)), expected)
    assert first.attached


def test_what_was_recorded_outlives_the_patches(unet):
    with ap.attach(unet, ap.SelfAttentionGuidance(0.5), **GUIDED) as attached:
        run(unet)
        recorded = attached.attention
        assert recorded is not None
        ap.detach(unet)
    assert torch.equal(attached.attention, recorded)


def test_replace_is_as_attaching_to_a_fresh_model(unet):
    """A cell that is run again gives the same: patches do not pile up."""
    with ap.attach(share_weights(original()), prompt(1), **GUIDED) as fresh:
        expected = run(fresh._denoiser)
    others = [ap.attach(unet, prompt(seed), **GUIDED) for seed in (0, 2)]
    for _ in range(3):
        latest = ap.attach(unet, prompt(1), replace=True, **GUIDED)
        assert torch.equal(run(unet), expected)
        assert ap.attached(unet) == ap.PatchStack([prompt(1)])
        assert latest.attached
        assert not any(other.attached for other in others)
        others.append(latest)
    others[0].detach()
    assert latest.attached
    latest.detach()
    assert is_original(unet)


def test_replace_takes_other_chunks(unet):
    ap.attach(unet, prompt(0), cond_or_uncond=(1, 0))
    ap.attach(unet, prompt(1), cond_or_uncond=(0, 1), replace=True)
    with pytest.raises(ValueError, match=r"already has \(0, 1\), got \(1, 0\)"):
        ap.attach(unet, prompt(0), cond_or_uncond=(1, 0))


@pytest.mark.parametrize(
    ("options", "error"),
    [({}, "got one for 70"), ({"cond_or_uncond": (-1,)}, "cond_or_uncond")],
)
def test_what_does_not_fit_replaces_nothing(unet, options, error):
    handle = ap.attach(unet, prompt(0), **GUIDED)
    expected = run(unet)
    new = make_prompt(make_unet("sdxl")) if not options else prompt(1)
    with pytest.raises(ValueError, match=error):
        ap.attach(unet, new, replace=True, **options)
    assert handle.attached
    assert ap.attached(unet) == handle.stack
    assert torch.equal(run(unet), expected)


def test_attaching_the_same_again_warns_once(unet, caplog):
    with caplog.at_level(logging.WARNING, "attnpatch"):
        ap.attach(unet, prompt(0), **GUIDED)
        ap.attach(unet, prompt(1), **GUIDED)
        ap.attach(unet, [prompt(2), prompt(2)], **GUIDED)  # on purpose
        assert not caplog.records
        for _ in range(2):
            ap.attach(unet, prompt(1).replace(), **GUIDED)  # equal, another object
    assert len(caplog.records) == 1
    assert "an equal ImagePrompt is attached already, and now acts twice" in caplog.text
    assert "replace=True" in caplog.text
    assert "detach(model)" in caplog.text


def test_a_handle_says_that_the_pipeline_has_another_unet(unet):
    pipeline = make_pipeline(unet=unet)
    handle = ap.attach(pipeline, prompt(0))
    assert handle.in_use
    assert "not in use" not in repr(handle)
    pipeline.unet = torch.compile(unet, backend="eager")  # the same one
    assert handle.in_use
    pipeline.unet = share_weights(original())
    assert handle.attached
    assert not handle.in_use
    assert "not in use, since the StableDiffusionPipeline has another UNet now" in repr(handle)
    assert ap.attached(pipeline) == ap.PatchStack()
    assert not ap.report(pipeline).matched
    ap.detach(pipeline)  # takes nothing off the first UNet
    assert ap.attached(unet) == handle.stack
    pipeline.unet = unet
    assert handle.in_use
    handle.detach()
    assert not handle.in_use
    assert is_original(unet)


def test_a_handle_of_a_unet_alone_is_in_use_while_attached(unet):
    handle = ap.attach(unet, prompt(0))
    assert handle.in_use
    handle.detach()
    assert not handle.in_use
