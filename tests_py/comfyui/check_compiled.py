# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Models that the host's node compiles: pictures are those of the same patches without it."""

from importlib import import_module

import pytest
import torch
from narrow_models import make_model
from narrow_transformers import CASES, make_transformer, sample_transformer
from real_host import relative, sample

import attnpatch as ap
from attnpatch.patches import KeyGain, TextKeys

SMALL = {
    "channel_mult": [1, 2],
    "num_res_blocks": [1, 1],
    "transformer_depth": [0, 2],
    "transformer_depth_output": [0, 0, 1, 1],
}


def compiled(model):
    """As the host's node has it, without a compiler of C++."""
    node = import_module("comfy_extras.nodes_torch_compile")
    guards = getattr(node, "skip_torch_compile_dict", None)
    made = model.clone()
    import_module("comfy_api.torch_helpers").set_torch_compile_wrapper(
        made, backend="eager", options=None if guards is None else {"guard_filter_fn": guards}
    )
    return made


@pytest.fixture(scope="module")
def unet():
    return make_model("sd1", **SMALL)


@pytest.fixture(autouse=True)
def no_graphs():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def words(**options):
    return KeyGain(TextKeys((3, 5)), 20.0, **options)


# What differs where shapes do not: the layer, the pass, the step.
PATCHES = {
    "layers": words(weight={0: 1.0, 1: 0.0, 2: 0.2, 3: 0.0}),
    "passes": ap.PerturbedAttentionGuidance(2.0),
    "steps": words(end=0.5),
}


@pytest.mark.parametrize("kind", PATCHES)
def test_a_unet(unet, kind):
    options = {"steps": 3, "size": (8, 8), "cfg": 1.0}
    patched = ap.patch_model(unet, PATCHES[kind])
    right = sample(patched, **options)
    assert relative(right, sample(unet, **options)) > 1e-3, "it has no effect"
    assert relative(sample(compiled(patched), **options), right) < 1e-5
    assert relative(sample(ap.patch_model(compiled(unet), PATCHES[kind]), **options), right) < 1e-5


def test_graphs_of_the_model_without_patches(unet):
    """They are there already, and fit by all that they look at."""
    plain = sample(unet, size=(8, 8))
    assert relative(sample(compiled(unet), size=(8, 8)), plain) < 1e-5
    patched = ap.patch_model(unet, words())
    right = sample(patched, size=(8, 8))
    assert relative(right, plain) > 1e-3
    assert relative(sample(compiled(patched), size=(8, 8)), right) < 1e-5
    assert relative(sample(compiled(unet), size=(8, 8)), plain) < 1e-5


def test_a_transformer():
    case = CASES["flux"]
    model = make_transformer(case)
    plain = sample_transformer(compiled(model), case, cfg=1.0)
    weight = dict(zip(range(case.layers), (1.0, 0.0, 0.4, 0.0), strict=True))
    patched = ap.patch_model(model, KeyGain(TextKeys(case.words), 20.0, weight=weight))
    right = sample_transformer(patched, case, cfg=1.0)
    assert relative(right, plain) > 1e-3
    assert relative(sample_transformer(compiled(patched), case, cfg=1.0), right) < 1e-5
