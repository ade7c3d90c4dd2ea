# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""One model, patched by us and by the public pack."""

from __future__ import annotations

from functools import cache

import reference_pack
from narrow_adapters import make_features, make_state
from narrow_models import make_model
from real_host import relative, sample

import attnpatch as ap

TOLERANCE = 1e-4


@cache
def model_of(family):
    return make_model(family)


@cache
def state_of(family, seed=0):
    return make_state(family, seed=seed)


@cache
def plain_sample(family, **options):
    return sample(model_of(family), **options)


def our_prompt(family, *, features=None, seed=0, combine="concat", **options):
    adapter = ap.load_image_adapter(state_of(family, seed))
    image, negative = make_features() if features is None else features
    embeds = adapter.get_image_embeds(image, negative, combine=combine)
    return ap.ImagePrompt(adapter, embeds, **options)


def ours(family, model=None, **options):
    return ap.patch_model(model or model_of(family), our_prompt(family, **options))


def theirs(family, model=None, *, features=None, seed=0, **options):
    features = make_features() if features is None else features
    return reference_pack.apply(
        model or model_of(family), state_of(family, seed), features, **options
    )


def check(family, our_model, their_model, effect=0.01, **options):
    """Compare two patched models' pictures, and see that the patch did something at all."""
    expected = sample(their_model, **options)
    assert relative(expected, plain_sample(family, **options)) > effect, "it has no effect"
    difference = relative(sample(our_model, **options), expected)
    print(f"largest difference {difference:.1e}")
    assert difference < TOLERANCE
