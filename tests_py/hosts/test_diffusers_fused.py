# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Patches beside fused projections: one linear map for q, k and v, or for k and v."""

import copy

import pytest
import torch
from attach_case import GUIDED, original, prompt, run
from diffusers.models.attention_processor import FusedAttnProcessor2_0
from diffusers_models import is_original

from attnpatch import (
    PerturbedAttentionGuidance,
    SelfAttentionGuidance,
    SlothfulAttention,
    TokenMerging,
)
from attnpatch.hosts import attach

STACKS = {
    "prompt": lambda: [prompt()],
    "shared_softmax": lambda: [prompt(shared_softmax=True)],
    "fewer keys": lambda: [SlothfulAttention(in_slothful=3.0)],
    "merged": lambda: [TokenMerging(max_depth=2)],
    "all": lambda: [
        SlothfulAttention(),
        prompt(),
        PerturbedAttentionGuidance(2.0),
        SelfAttentionGuidance(1.0),
    ],
}


def is_fused(unet):
    return all(type(p) is FusedAttnProcessor2_0 for p in unet.attn_processors.values())


def patched(unet, name):
    with attach(unet, STACKS[name](), **GUIDED):
        return run(unet)


def fused(unet):
    twin = copy.deepcopy(unet)
    twin.fuse_qkv_projections()
    return twin


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", STACKS)
def test_fused_before_and_after_attaching(name):
    unet = copy.deepcopy(original())
    expected = patched(unet, name)
    assert not torch.equal(expected, run(unet))
    close(patched(fused(unet), name), expected)
    with attach(unet, STACKS[name](), **GUIDED):
        unet.fuse_qkv_projections()
        close(run(unet), expected)
        unet.unfuse_qkv_projections()
        close(run(unet), expected)
    assert is_original(unet)


def test_processors_after_detaching_are_those_of_the_unet():
    unet = copy.deepcopy(original())
    with attach(unet, STACKS["all"](), **GUIDED):
        unet.fuse_qkv_projections()
        run(unet)
    assert is_fused(unet)
    unet.unfuse_qkv_projections()
    assert is_original(unet)


def double_values(unet, name, parts):
    """Change the part of the values in what a UNet projects with."""
    for module_name, module in unet.named_modules():
        if module_name.endswith((f"attn1.{name}", f"attn2.{name}")):
            rows = module.out_features // parts
            module.weight.data[-rows:] *= 2.0


@pytest.mark.parametrize("name", STACKS)
def test_the_fused_weights_count(name):
    """What was loaded or trained after fusing is in the fused weights alone."""
    twin, unet = copy.deepcopy(original()), fused(original())
    double_values(twin, "to_v", 1)
    double_values(unet, "to_qkv", 3)
    double_values(unet, "to_kv", 2)
    close(run(unet), run(twin))
    close(patched(unet, name), patched(twin, name))


class Hidden(torch.nn.Module):
    """A linear map whose weights are not to be seen, as a quantised one's."""

    def __init__(self, linear):
        super().__init__()
        self.hidden = [linear]

    def forward(self, states):
        return self.hidden[0](states)


def test_fused_maps_of_other_kinds():
    unet = fused(original())
    expected = patched(unet, "all")
    for module in list(unet.modules()):
        for name in ("to_qkv", "to_kv"):
            if hasattr(module, name):
                setattr(module, name, Hidden(getattr(module, name)))
    close(patched(unet, "all"), expected)


class Foreign(FusedAttnProcessor2_0):
    """Someone else's processor that projects all at once."""


def test_foreign_processors_that_project_at_once():
    unet = fused(original())
    expected = patched(unet, "merged")
    unet.set_attn_processor(Foreign())
    close(patched(unet, "merged"), expected)
    with pytest.raises(ValueError, match=r"processor: expected .* keys for .* unfuse it"):
        patched(unet, "fewer keys")
