# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What patching leaves alone: the model it was given, its clones, and what has nothing to do."""

from __future__ import annotations

import copy
import importlib
import types

import pytest
import torch
from narrow_adapters import make_features
from narrow_models import make_model
from real_host import comfy, relative, sample
from side_by_side import model_of, our_prompt, ours, plain_sample
from torch.utils._python_dispatch import TorchDispatchMode

import attnpatch as ap


def copy_containers(value):
    """Copy as later ComfyUIs clone: dicts and lists anew, everything in them shared."""
    if isinstance(value, dict):
        return {key: copy_containers(item) for key, item in value.items()}
    return [copy_containers(item) for item in value] if isinstance(value, list) else value


@pytest.fixture(params=["deep copies", "shared objects", "shared containers"])
def clone_rule(request, monkeypatch):
    """How ``ModelPatcher.clone`` treats model_options: as here, as later, and as rude as can be."""
    rule = {
        "deep copies": copy.deepcopy,
        "shared objects": copy_containers,
        "shared containers": copy.copy,
    }[request.param]
    if hasattr(comfy.utils, "deepcopy_list_dict"):  # a later one
        monkeypatch.setattr(comfy.utils, "deepcopy_list_dict", rule)
    else:
        replaced = types.SimpleNamespace(deepcopy=rule, copy=copy.copy)
        monkeypatch.setattr(comfy.model_patcher, "copy", replaced)
    return request.param


@pytest.fixture(params=["sd1", "sdxl"])
def family(request):
    return request.param


def second_prompt(family):
    return our_prompt(family, seed=1, features=make_features(seed=60), weight=0.6)


def test_chained_prompts_give_the_same_picture_on_every_run(family, clone_rule):
    upstream = ours(family, weight=0.8)  # the host keeps this one, and runs what follows anew
    before, plain = sample(upstream), plain_sample(family)
    pictures = [sample(ap.patch_model(upstream, second_prompt(family))) for _ in range(4)]
    assert all(torch.equal(picture, pictures[0]) for picture in pictures)
    assert relative(pictures[0], before) > 0.01 and relative(before, plain) > 0.01
    assert torch.equal(sample(upstream), before)
    assert torch.equal(sample(model_of(family)), plain)


def test_a_changed_weight_downstream_leaves_no_trace(family, clone_rule):
    upstream = ours(family, weight=0.8)
    first = sample(ap.patch_model(upstream, second_prompt(family)))
    sample(ap.patch_model(upstream, second_prompt(family).replace(weight=2.0)))
    assert torch.equal(sample(ap.patch_model(upstream, second_prompt(family))), first)


class Operators(TorchDispatchMode):
    """Records every operator that runs."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **kwargs or {})


def test_clones_copy_no_tensor(family, clone_rule):
    patched = ours(family, mask=torch.ones(1, 32, 48))
    expected = sample(patched)
    with Operators() as operators:
        third = patched.clone().clone().clone()
    assert operators.seen == []
    assert torch.equal(sample(third), expected)


@pytest.mark.parametrize("chained", [False, True], ids=["alone", "after another"])
@pytest.mark.parametrize(
    "options",
    [
        {"weight": 0.0},
        {"weight": {0: 0.0, 1: 0.0}},
        {"start": 0.5, "end": 0.5},
        {"start": 1.0, "end": 1.0},
        {"start": 0.0, "end": 0.0},
        {"mask": torch.zeros(1, 32, 48)},
    ],
    ids=lambda options: "-".join(options),
)
def test_nothing_to_do_is_bit_equal(family, options, chained):
    model = ours(family) if chained else model_of(family)
    patched = ap.patch_model(model, our_prompt(family, seed=1, **options))
    expected = sample(ours(family)) if chained else plain_sample(family)
    assert torch.equal(sample(patched), expected)


@pytest.mark.parametrize("inside", [False, True], ids=["outside", "inside"])
def test_patched_in_inference_mode_or_not(family, inside):
    with torch.inference_mode(inside):
        patched = ours(family, weight=0.8)
    expected = sample(patched)
    with torch.inference_mode(not inside):
        assert torch.equal(sample(ours(family, weight=0.8)), expected)


def test_the_global_generator_is_left_alone(family):
    before = torch.get_rng_state()
    ours(family)
    assert torch.equal(torch.get_rng_state(), before)


def test_moves(family):
    """What the host calls when it loads a model, and weights that stay behind at low memory."""
    patched = ours(family, weight=0.8)
    expected = sample(patched)
    for target in (torch.device("cpu"), torch.float16, torch.float32):
        patched.model_patches_to(target)
        assert torch.equal(sample(patched), expected)
    assert isinstance(patched.model_patches_models(), list)


def test_low_memory():
    """Only a part of the weights is loaded; the rest is cast at every use."""
    model = make_model("sd1")
    patched = ap.patch_model(model, our_prompt("sd1", weight=0.8))
    expected = sample(patched)
    patched.detach()
    patched.partially_load(torch.device("cpu"), extra_memory=1_000_000)
    assert patched.model.model_lowvram
    assert relative(sample(patched), expected) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(dtype):
    model = make_model("sd1", dtype=dtype)
    small = {"size": (8, 16), "steps": 1}  # half precision is slow on CPUs
    plain = sample(model, **small)
    patched = sample(ap.patch_model(model, our_prompt("sd1", weight=0.8)), **small)
    expected = sample(ours("sd1", weight=0.8), **small)
    assert relative(patched, plain) > 0.05
    assert relative(patched, expected) < 0.05


def test_a_clone_with_a_model_of_its_own():
    """Hooks, compilation and several GPUs have a host clone so; its time is that model's."""
    if not hasattr(comfy.model_patcher.ModelPatcher, "get_clone_model_override"):
        pytest.skip("this ComfyUI has no models of clones of their own")
    advanced = importlib.import_module("comfy_extras.nodes_model_advanced")

    def other_sigmas():
        node = advanced.ModelSamplingContinuousEDM()
        return node.patch(make_model("sd1"), "v_prediction", 120.0, 0.002)[0]

    def patch(end):
        return ap.KeyGain(ap.TextKeys((3, 5)), 20.0, end=end)

    options = {"steps": 6, "size": (8, 8)}
    # It ends at other sigmas than those of the model as it is loaded.
    right = sample(ap.patch_model(other_sigmas(), patch(0.1)), **options)
    always = sample(ap.patch_model(other_sigmas(), patch(1.0)), **options)
    assert relative(right, always) > 1e-3, "the window has no effect"
    override = make_model("sd1").get_clone_model_override()
    clone = ap.patch_model(other_sigmas(), patch(0.1)).clone(model_override=override)
    assert relative(sample(clone, **options), right) < 1e-6
