# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The package's model called as other pipelines are."""

import numpy as np
import pytest
import torch

import attnpatch as ap
from attnpatch.demo import store
from attnpatch.demo.clothes import load_clothes
from attnpatch.demo.items import CLASS_NAMES, to_pixels


@pytest.fixture(scope="module")
def clothes():
    return load_clothes()


def test_pictures_reach_the_encoder_as_it_was_trained(clothes):
    """CLIP's way of preparing pictures, undone, gives the encoder's own input."""
    shipped = store.load_references()
    features = store.load_encoder()(to_pixels(shipped.images[:3]))
    wanted = clothes.adapter.get_image_embeds(features, combine=None)
    found = clothes.adapter.encode(clothes.pictures[:3], clothes.encoder, combine=None)
    assert torch.allclose(found.cond, wanted.cond, atol=1e-4)
    assert clothes.names[:2] == [CLASS_NAMES[label] for label in shipped.labels[:2]]


def test_words_make_pictures_and_generators_repeat_them(clothes):
    def make(prompt, **options):
        generator = torch.Generator().manual_seed(0)
        made = clothes.pipeline(prompt, generator=generator, num_inference_steps=3, **options)
        return [np.asarray(image) for image in made.images]

    boots = make("ankle boot", num_images_per_prompt=2)
    assert [picture.shape for picture in boots] == [(32, 32)] * 2
    assert all(map(np.array_equal, boots, make("ankle boot", num_images_per_prompt=2)))
    both = make(["ankle boot", "bag"])
    assert np.abs(both[0].astype(int) - boots[0]).max() <= 1, "the first noise is the same"
    assert not np.array_equal(both[1], boots[1])
    with pytest.raises(ValueError, match=r"expected .*'ankle boot', got 'cat'"):
        clothes.pipeline("cat")


@pytest.mark.parametrize("prompt", ["", "bag"])
def test_patches_know_cond_from_uncond_without_being_told(clothes, prompt):
    """As the demo is told it: the image prompt's uncond tokens go to the uncond rows."""
    image = ap.ImagePrompt.from_pictures(clothes.adapter, clothes.pictures[1], clothes.encoder)

    def make(**told):
        with ap.attach(clothes.pipeline, image, **told):
            made = clothes.pipeline(
                prompt, num_inference_steps=2, generator=torch.Generator().manual_seed(0)
            )
        return np.asarray(made.images[0]).astype(int)

    assert np.array_equal(make(), make(cond_or_uncond=(1, 0)))
    assert np.abs(make() - make(cond_or_uncond=(0, 1))).max() > 1
