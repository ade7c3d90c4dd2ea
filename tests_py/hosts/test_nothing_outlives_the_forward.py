# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""No tensor that is made inside a model's forward outlives it: patches make theirs before.

A host that records a forward pass as a graph may free or move what was allocated in it.
"""

import gc
import weakref
from contextlib import contextmanager

import pytest
import torch
from attach_case import GUIDED, original, prompt, run
from comfyui_oracle import make_prompt
from protocol_sampling import make_comfy, make_conds, sample
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import attnpatch as ap


def storages(values):
    """Where the memory of all tensors among some arguments begins."""
    tensors = [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


class Watch(TorchDispatchMode):
    """Remembers what operators gave in memory of its own, without keeping it."""

    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        known = storages((args, kwargs))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and not storages(tensor) <= known:  # no view
                self.made.append((str(function), tuple(tensor.shape), weakref.ref(tensor)))
        return out


@contextmanager
def watched(model, name):
    """Watch one method of a model, from its first line to its last."""
    method, seen = getattr(model, name), []

    def wrapped(*args, **kwargs):
        with Watch() as watch:
            out = method(*args, **kwargs)
        seen.append(watch.made)
        return out

    setattr(model, name, wrapped)
    try:
        yield seen
    finally:
        delattr(model, name)


def check(seen):
    """All is gone that was made in these calls."""
    assert seen and all(len(made) > 100 for made in seen)
    gc.collect()
    left = [(name, shape) for made in seen for name, shape, ref in made if ref() is not None]
    assert not left, left[:8]


PATCHES = {
    "image prompt": lambda image: [image()],
    "masked image prompts": lambda image: [image(mask=torch.eye(8)), image(mask=torch.ones(4, 4))],
    "shared softmax": lambda image: [image(shared_softmax=True)],
    "words": lambda image: [ap.KeyGain(ap.TextKeys((1, 2)), 1.5), image()],
    "merged tokens": lambda image: [ap.TokenMerging(), image()],
    "fewer tokens": lambda image: [ap.SlothfulAttention()],
    "near-sighted": lambda image: [ap.NearSightedAttention(), image()],
}


@pytest.mark.parametrize("case", PATCHES)
def test_diffusers(case):
    unet = original()
    with ap.attach(unet, PATCHES[case](prompt), **GUIDED), watched(unet, "forward") as seen:
        run(unet)
        check(seen)


GUIDANCES = [ap.SmoothedEnergyGuidance(2.0, blur_sigma=1.5), ap.PerturbedAttentionGuidance(2.0)]


def test_guidance():
    """Both calls: the ordinary one, and that of the degraded passes."""
    unet = original()
    with ap.attach(unet, GUIDANCES, **GUIDED), watched(unet, "forward") as seen:
        run(unet)
        assert len(seen) == 2
        check(seen)


def test_negative_text():
    unet = original()
    negative = torch.randn(1, 5, unet.config.cross_attention_dim)
    patch = ap.NormalizedAttentionGuidance(negative)
    with ap.attach(unet, [patch, prompt()], **GUIDED), watched(unet, "forward") as seen:
        run(unet)
        check(seen)


@pytest.mark.parametrize("case", PATCHES)
def test_comfyui(case):
    host = make_comfy()
    x, conds = make_conds()
    model = ap.patch_model(host, PATCHES[case](make_prompt))
    with watched(host.model.diffusion_model, "_forward") as seen:
        sample(model, x, conds, steps=1)
    del host.model.diffusion_model.current_step  # the host's own
    check(seen)
