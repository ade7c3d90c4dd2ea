# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

import json

import pytest
from safetensors import safe_open

from attnpatch.demo import store
from fashion_mnist import weights
from fashion_mnist.data import load_split
from fashion_mnist.recipe import Recipe


@pytest.mark.parametrize("name", ("unet", "text", "ip_adapter", "encoder", "classifier"))
def test_shipped_weights_say_their_recipe(name):
    with safe_open(store.SHIPPED / f"{name}.safetensors", "pt") as file:
        assert Recipe(**json.loads(file.metadata()["recipe"])).steps > 0


def test_the_shipped_denoiser_loads():
    model = weights.load_denoiser()
    assert not model.training
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_references_are_the_first_of_the_test_split():
    try:
        test = load_split("test")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    references = store.load_references()
    assert references.images.equal(test.images[: store.REFERENCES])
    assert references.labels.equal(test.labels[: store.REFERENCES])
