# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from attnpatch.demo import store

NETWORKS = ("unet", "text", "ip_adapter", "encoder", "classifier")


@pytest.mark.parametrize("name", NETWORKS)
def test_shipped_weights_are_half_precision_and_say_where_they_come_from(name):
    path = store.SHIPPED / f"{name}.safetensors"
    floats = [t for t in load_file(path).values() if t.is_floating_point()]
    assert floats and all(str(tensor.dtype) == "torch.float16" for tensor in floats)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["trained_on"].startswith("Fashion-MNIST")
    assert "recipe" in metadata


def test_the_package_carries_at_most_eight_megabytes():
    assert sum(path.stat().st_size for path in store.SHIPPED.iterdir()) <= 8_000_000


@pytest.mark.parametrize(
    "load",
    [
        store.load_unet,
        store.load_text,
        store.load_encoder,
        store.load_classifier,
    ],
)
def test_shipped_weights_load(load):
    model = load()
    assert not model.training
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_references_are_test_items_of_every_class():
    references = store.load_references()
    assert references.images.shape == (store.REFERENCES, 28, 28)
    assert set(references.labels.tolist()) == set(range(10))


def test_unet_file_has_no_adapter_in_it():
    assert not [key for key in load_file(store.SHIPPED / "unet.safetensors") if "_ip" in key]
