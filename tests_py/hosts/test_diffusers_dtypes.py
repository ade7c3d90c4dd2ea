# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Patches in UNets on the meta device, which has shapes alone, and in float64."""

import copy
import functools

import pytest
import torch
from attach_case import GUIDED, original, prompt
from diffusers_models import CONTEXT, unet_inputs

import attnpatch as ap

SIZE = (32, 24)


@functools.cache
def negative():
    return torch.randn(1, 7, CONTEXT, generator=torch.Generator().manual_seed(3))


PATCHES = {
    "prompt": prompt,
    "masked": lambda: prompt().replace(mask=torch.ones(8, 6).tril()),
    "shared_softmax": lambda: prompt().replace(shared_softmax=True),
    "curve": lambda: prompt().replace(weight=ap.Weight(0.8, curve=[(0, 1), (0.5, 0.2)])),
    "SAG": lambda: ap.SelfAttentionGuidance(0.5),
    "PAG": lambda: ap.PerturbedAttentionGuidance(2.0),
    "SEG": lambda: ap.SmoothedEnergyGuidance(2.0),
    "slothful": ap.SlothfulAttention,
    "tile": ap.NearSightedTile,
    "near-sighted": ap.NearSightedAttention,
    "merging": ap.TokenMerging,
    "hypertile": ap.HyperTile,
    "imitated": lambda: ap.SlothfulAttention(compat="comfyui_slothful_attention"),
    "words": lambda: ap.KeyGain(ap.TextKeys((2, 3)), 3.0, mask=torch.ones(8, 6).tril()),
    "NAG": lambda: ap.NormalizedAttentionGuidance(negative(), 4.0),
}


def run(unet, patch, change, **changes):
    inputs = {name: change(value) for name, value in unet_inputs(unet, size=SIZE).items()}
    with torch.no_grad(), ap.attach(unet, patch, **GUIDED):
        return unet(**(inputs | changes)).sample


@pytest.mark.parametrize("name", PATCHES)
def test_shapes_on_the_meta_device(name):
    unet = copy.deepcopy(original()).to("meta")
    for changes in ({}, {"timestep": 500}):
        out = run(unet, PATCHES[name](), lambda value: value.to("meta"), **changes)
        assert out.device.type == "meta"
        assert out.shape == (2, 4, *SIZE)


@pytest.mark.parametrize("name", PATCHES)
def test_float64(name):
    """The same as in float32, but for that one's rounding."""
    patch = PATCHES[name]()
    expected = run(original(), patch, lambda value: value)
    wide = copy.deepcopy(original()).double()
    out = run(wide, patch, lambda value: value.double() if value.is_floating_point() else value)
    assert out.dtype is torch.float64
    # Which tokens are alike enough to be merged is a choice that rounding may turn.
    tolerance = 1e-2 if name == "merging" else 2e-5
    torch.testing.assert_close(out.float(), expected, rtol=0, atol=tolerance)
    assert not torch.equal(out.float(), expected)


@pytest.mark.parametrize("name", PATCHES)
def test_a_default_device_that_users_set(name):
    """What patches keep on the CPU is made there, whatever device is the default."""
    patch, unet, inputs = PATCHES[name](), original(), unet_inputs(original(), size=SIZE)
    with torch.device("meta"), torch.no_grad(), ap.attach(unet, patch, **GUIDED):
        out = unet(**inputs).sample
    assert torch.equal(out, run(unet, patch, lambda value: value))
