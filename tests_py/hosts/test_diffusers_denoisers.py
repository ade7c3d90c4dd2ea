# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Pipelines with more than one denoiser: the report says which of them have no patches."""

import logging

import diffusers
import pytest
import torch
from attach_case import prompt
from diffusers_models import make_unet
from test_diffusers_pipelines import make_pipeline

import attnpatch as ap


class TwoUNets(diffusers.StableDiffusionPipeline):
    """One whose calls may run a second UNet."""

    def __init__(self, *, second, **parts):
        super().__init__(**parts)
        self.register_modules(second=second)


def test_a_pipeline_within_a_pipeline(caplog):
    pipeline, refiner = make_pipeline(), make_pipeline(unet=make_unet(seed=9))
    alone = ap.attach(pipeline, prompt())
    assert alone.report.unpatched == () and "not patched" not in str(alone.report)
    alone.detach()
    pipeline.refiner = refiner
    with caplog.at_level(logging.WARNING), ap.attach(pipeline, prompt()) as attached:
        assert attached.report.unpatched == ("refiner.unet (UNet2DConditionModel)",)
        assert "\nnot patched: refiner.unet (UNet2DConditionModel)" in str(attached.report)
        assert ap.report(pipeline) == attached.report
        with ap.attach(refiner, prompt()) as other:  # it may hold the first one in turn
            refiner.base = pipeline
            assert ap.report(pipeline).unpatched == () == ap.report(refiner).unpatched
            assert other.report.unpatched == ()
        assert ap.report(pipeline).unpatched == attached.report.unpatched
    assert caplog.messages == []  # it runs in calls of its own


@pytest.mark.parametrize("wrap", [lambda unet: unet, lambda unet: torch.compile(unet)])
def test_a_second_unet_of_the_same_pipeline(caplog, wrap):
    second = make_unet(seed=9)
    pipeline = make_pipeline(kind=TwoUNets, second=wrap(second))
    with caplog.at_level(logging.WARNING):
        attached = ap.attach(pipeline, prompt())
    assert attached.report.unpatched == ("second (UNet2DConditionModel)",)
    (message,) = caplog.messages
    assert message.startswith("attach: the TwoUNets holds another UNet") and "second" in message
    caplog.clear()
    attached.detach()
    with caplog.at_level(logging.WARNING), ap.attach(second, prompt()):
        assert ap.attach(pipeline, prompt()).report.unpatched == ()
    assert caplog.messages == []


def test_a_prior_is_no_unet(caplog):
    pipeline = make_pipeline()
    pipeline.prior_prior = diffusers.PriorTransformer(
        num_attention_heads=1, attention_head_dim=8, num_layers=1, embedding_dim=8
    )
    pipeline.controlnet = diffusers.ControlNetModel.from_unet(pipeline.unet)
    with caplog.at_level(logging.WARNING), ap.attach(pipeline, prompt()) as attached:
        assert attached.report.unpatched == ("prior_prior (PriorTransformer)",)
    assert caplog.messages == []


def test_the_same_unet_twice_is_one(caplog):
    pipeline = make_pipeline(kind=TwoUNets, second=None)
    pipeline.second = pipeline.unet
    pipeline.decoder = make_pipeline(unet=pipeline.unet)
    with caplog.at_level(logging.WARNING), ap.attach(pipeline, prompt()) as attached:
        assert attached.report.unpatched == ()
    assert caplog.messages == []
