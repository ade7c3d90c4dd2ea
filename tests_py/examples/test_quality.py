# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""Floors under the shipped weights' quality; `fashion_mnist.evaluate` gives the real figures."""

import json

import pytest
import torch

from attnpatch.demo import sample, store
from attnpatch.demo.items import to_pixels
from attnpatch.demo.model import NULL_CLASS
from fashion_mnist import evaluate, weights
from fashion_mnist.data import load_split
from fashion_mnist.evaluate import Prompts, draw, share_right

STEPS = 10
COUNT = 50


@pytest.fixture(scope="module")
def judge():
    return store.load_classifier()


@pytest.fixture(scope="module")
def denoiser():
    return weights.load_denoiser()


def test_the_judge_knows_the_shipped_items(judge):
    references = store.load_references()
    assert share_right(judge, to_pixels(references.images), references.labels) >= 0.85


@pytest.mark.slow
def test_the_judge_knows_the_whole_test_split(judge):
    try:
        split = load_split("test")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    assert share_right(judge, to_pixels(split.images), split.labels) >= 0.90


def test_samples_of_a_class_are_of_that_class(judge, denoiser):
    asked = torch.arange(COUNT) % 10
    pictures = draw(denoiser, Prompts(asked), sample.CLASS_GUIDANCE, STEPS, seed=1000)
    assert share_right(judge, pictures, asked) >= 0.75


def test_samples_of_an_image_prompt_alone_are_of_its_class(judge, denoiser):
    references = store.load_references()
    labels = references.labels[:COUNT]
    embeds = store.load_encoder()(to_pixels(references.images[:COUNT]))
    prompts = Prompts(torch.full_like(labels, NULL_CLASS), embeds)
    pictures = draw(denoiser, prompts, sample.IMAGE_GUIDANCE, STEPS, seed=2000)
    assert share_right(judge, pictures, labels) >= 0.60


def test_an_image_prompt_draws_samples_towards_its_picture(denoiser):
    pixels = to_pixels(store.load_references().images[:COUNT])
    encoder = store.load_encoder()
    embeds = encoder(pixels)
    none = torch.full((COUNT,), NULL_CLASS)
    found = draw(denoiser, Prompts(none, embeds), sample.IMAGE_GUIDANCE, STEPS, seed=3000)
    own = torch.cosine_similarity(encoder(found), embeds).mean()
    others = torch.cosine_similarity(encoder(found), embeds.roll(1, 0)).mean()
    assert own > others + 0.2


def test_the_command_prints_its_figures(capsys):
    try:
        load_split("tuning")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    assert evaluate.main(["--split", "tuning", "--count", "4", "--steps", "2"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["real_items_right"] >= 0.90
    for kind in ("class_samples_right", "image_samples_right"):
        assert figures[kind] in (0.0, 0.25, 0.5, 0.75, 1.0)
