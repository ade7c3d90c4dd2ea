# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The host's context windows: patches know which pictures, or which part of one, a window shows.

A UNet's pictures do not see each other, so that windows over a batch change nothing: a picture is
what it is without them. Windows over rows or columns that do not overlap are pictures of their own,
with their part of each mask.
"""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest
import torch
from narrow_models import noise, prompt
from real_host import comfy, relative, sample
from side_by_side import model_of, our_prompt

import attnpatch as ap

Node = import_module("comfy_extras.nodes_context_windows").ContextWindowsManualNode
PICTURES = 5
over_a_batch = pytest.mark.skipif(
    "causal_window_fix" not in inspect.signature(Node.execute).parameters,
    reason="this ComfyUI has no windows over a batch that work, patched or not",
)
OPTIONS = inspect.signature(Node.execute).parameters
SCHEDULES = ["standard_static", "standard_uniform", "looped_uniform", "batched"]


def windows(model, schedule="standard_static", length=3, overlap=1, dim=0, **options):
    return Node.execute(model, length, overlap, schedule, 1, False, "pyramid", dim, **options)[0]


def newer(**options):
    """Options of the node that older hosts have not."""
    return {name: value for name, value in options.items() if name in OPTIONS} | (
        {"freenoise": False} if "freenoise" in OPTIONS else {}
    )


def five_pictures(**options):
    features = noise(PICTURES, 64, seed=40), noise(1, 64, seed=41) * 0
    return our_prompt("sd1", features=features, combine="batch", **options)


def patches():
    rising = noise(PICTURES, 32, 48, seed=42).sigmoid()
    return {
        "a picture each": five_pictures(),
        "a mask each": our_prompt("sd1", mask=rising),
        "self-attention guidance": ap.SelfAttentionGuidance(0.7),
        "perturbed-attention guidance": ap.PerturbedAttentionGuidance(2.0),
        "fewer tokens": ap.NearSightedAttention(),
    }


@over_a_batch
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("anchor", [False, True])
def test_a_picture_each(schedule, anchor):
    patched = ap.patch_model(model_of("sd1"), five_pictures())
    expected = sample(patched, batch=PICTURES)
    assert relative(sample(model_of("sd1"), batch=PICTURES), expected) > 1e-2
    windowed = windows(patched, schedule, **newer(causal_window_fix=anchor))
    assert relative(sample(windowed, batch=PICTURES), expected) < 1e-4


@over_a_batch
@pytest.mark.parametrize("kind", patches())
@pytest.mark.parametrize("anchor", [False, True])
def test_patches(kind, anchor):
    patched = ap.patch_model(model_of("sd1"), patches()[kind])
    expected = sample(patched, batch=PICTURES)
    windowed = windows(patched, **newer(causal_window_fix=anchor))
    assert relative(sample(windowed, batch=PICTURES), expected) < 1e-4


@over_a_batch
def test_areas_in_windows():
    """A conditioning's area and a window over the batch at once."""
    patched = ap.patch_model(model_of("sd1"), five_pictures())
    conds = {"positive": [prompt(patched, 6, area=(8, 16, 4, 4), strength=1.0)]}
    expected = sample(patched, batch=PICTURES, **conds)
    windowed = windows(patched, **newer(causal_window_fix=False))
    assert relative(sample(windowed, batch=PICTURES, **conds), expected) < 1e-4


def run(model, latent, steps=2):
    with torch.inference_mode():
        return comfy.sample.sample(
            *(model, latent, steps, 4.0, "euler", "normal"),
            *([prompt(model, 6)], [prompt(model, 8)], torch.zeros_like(latent)),
            disable_pbar=True,
            seed=9,
        ).clone()


def parts(picture, dim, scale=1):
    """Two windows of 16 of 32 rows or columns."""
    return picture.split(16 * scale, dim)


@pytest.mark.parametrize("dim", [2, 3])
def test_windows_over_rows_and_columns(dim):
    latent = noise(1, 4, *((32, 24) if dim == 2 else (24, 32)), seed=5)
    mask = noise(1, *(8 * side for side in latent.shape[2:]), seed=42).sigmoid()
    mask = torch.nn.functional.avg_pool2d(mask, 31, 1, 15)  # nothing is lost by smaller grids
    mask = (mask - mask.min()) / (mask.max() - mask.min())
    expected = torch.cat(
        [
            run(ap.patch_model(model_of("sd1"), our_prompt("sd1", mask=own)), part)
            for part, own in zip(parts(latent, dim), parts(mask, dim - 1, 8), strict=True)
        ],
        dim,
    )
    patched = ap.patch_model(model_of("sd1"), our_prompt("sd1", mask=mask))
    windowed = windows(patched, length=16, overlap=0, dim=dim, **newer(causal_window_fix=False))
    assert relative(run(windowed, latent), expected) < 2e-3
    alone = ap.patch_model(model_of("sd1"), our_prompt("sd1", mask=mask))
    assert relative(run(alone, latent), expected) > 2e-2


@pytest.mark.parametrize("dim", [2, 3])
def test_what_windows_over_rows_and_columns_record(dim):
    latent = noise(1, 4, *((32, 24) if dim == 2 else (24, 32)), seed=5)
    recorded = []
    for part in parts(latent, dim):
        patched = ap.patch_model(model_of("sd1"), ap.SelfAttentionGuidance(0.7))
        run(patched, part, steps=1)
        recorded.append(ap.recorded_attention(patched).clone())
    patched = ap.patch_model(model_of("sd1"), ap.SelfAttentionGuidance(0.7))
    windowed = windows(patched, length=16, overlap=0, dim=dim, **newer(causal_window_fix=False))
    run(windowed, latent, steps=1)
    expected = torch.nn.functional.interpolate(
        torch.cat(recorded, dim - 1)[None], latent.shape[2:], mode="nearest"
    )[0]
    assert relative(ap.recorded_attention(windowed), expected) < 1e-5
    looped = windows(patched, "looped_uniform", 16, 4, dim, **newer(causal_window_fix=False))
    assert run(looped, latent).isfinite().all()
