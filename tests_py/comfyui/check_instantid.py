# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes of the public InstantID pack and ours, side by side in the real ComfyUI."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import reference_instantid as reference
import torch
from narrow_adapters import make_state
from narrow_models import make_model, noise, prompt
from real_host import relative, sample

from attnpatch.faces import FaceAnalysis, FaceFiles, as_insightface
from attnpatch.nodes import NODE_CLASS_MAPPINGS

sys.path.insert(0, str(Path(__file__).parents[1] / "faces"))
networks = pytest.importorskip("networks", exc_type=ImportError)
pytestmark = reference.needs_pack
TOLERANCE = 1e-4
WINDOW = {"start_at": 0.0, "end_at": 1.0}


@cache
def model():
    return make_model("sdxl")


@cache
def state():
    from fake_adapters import Maker

    projection = Maker(seed=2).resampler(512, output=2048, dim=1280, heads=20)
    return make_state("sdxl") | {"image_proj": projection}


@cache
def their_instantid():
    return reference.make_model(state())


@cache
def analysis():
    """Ours, in insightface's form, which their nodes take as well."""
    files = FaceFiles(networks.make_detector(seed=3), networks.make_recogniser(), "generated")
    return as_insightface(FaceAnalysis(files))


def pictures(count=1, seed=0):
    discs = [[(90 + 25 * i, 100, 40)] for i in range(count)]
    drawn = [networks.draw_discs(200, 240, d, seed + i) for i, d in enumerate(discs)]
    return torch.from_numpy(np.stack(drawn)).float() / 255


class FakeControl:
    """A ControlNet that notes what it is told."""

    def __init__(self):
        self.previous = self.cond_hint_original = None

    def copy(self):
        return FakeControl()

    def set_cond_hint(self, *told):
        self.cond_hint_original, self.strength, self.window = told
        return self

    def set_previous_controlnet(self, previous):
        self.previous = previous
        return self


def run(node, **inputs):
    made = NODE_CLASS_MAPPINGS[node]()
    return getattr(made, made.FUNCTION)(**inputs)


def both(node, *, quirks=None, reached=True, **inputs):
    """What their node and ours give for the same inputs."""
    shared = {"insightface": analysis(), "model": model()} | inputs
    with reference.middle_block(reached):
        theirs = reference.run(node, instantid=their_instantid(), **shared)
    extra = {} if quirks is None else {"reference_quirks": quirks}
    return theirs, run(node, instantid=state(), **shared, **extra)


def check_models(theirs, ours, **options):
    expected = sample(theirs, **options)
    assert relative(expected, sample(model(), **options)) > 0.01, "it has no effect"
    difference = relative(sample(ours, **options), expected)
    print(f"largest difference {difference:.1e}")
    assert difference < TOLERANCE


@pytest.mark.parametrize(
    ("inputs", "options"),
    [
        ({"weight": 0.8}, {}),
        ({"weight": -0.5}, {}),
        ({"weight": 0.8, "noise": 0.4}, {}),
        ({"weight": 1.0, "start_at": 0.2, "end_at": 0.7}, {"steps": 5}),
        ({"weight": 1.0, "mask": noise(1, 40, 56, seed=3).sigmoid()}, {}),
        ({"weight": 1.0, "mask": noise(2, 32, 48, seed=3).sigmoid()}, {"batch": 2}),
        ({"weight": 1.0, "image": pictures(3)}, {}),
    ],
    ids=["plain", "negative", "noise", "window", "mask", "masks of a batch", "several pictures"],
)
def test_attention_patch(inputs, options):
    inputs = {"image": pictures(), "noise": 0.0} | WINDOW | inputs
    state_before = torch.get_rng_state()
    theirs, ours = both("InstantIDAttentionPatch", **inputs)
    torch.set_rng_state(state_before)
    for name in ("cond", "uncond"):
        assert relative(ours[1][name], theirs[1][name]) < TOLERANCE
    check_models(theirs[0], ours[0], **options)


def test_weight_0_gives_the_model_back():
    theirs, ours = both("InstantIDAttentionPatch", image=pictures(), weight=0, noise=0.0, **WINDOW)
    assert theirs[0] is model() and ours[0] is model()


@pytest.mark.parametrize("quirks", [False, True], ids=["every site", "quirks"])
@pytest.mark.parametrize("combine", ["average", "norm average", "concat"])
def test_apply_advanced(combine, quirks):
    control, before = FakeControl(), FakeControl()
    conditionings = {
        "positive": [prompt(model(), 6), prompt(model(), 7, control=before)],
        "negative": [prompt(model(), 8)],
    }
    theirs, ours = both(
        "ApplyInstantIDAdvanced",
        quirks=quirks,
        reached=not quirks,
        control_net=control,
        image=pictures(3),
        ip_weight=0.9,
        cn_strength=0.7,
        noise=0.3,
        combine_embeds=combine,
        mask=torch.ones(1, 32, 48),
        **conditionings,
        **WINDOW,
    )
    # Their norm is over pictures; without quirks ours is each picture's own.
    if combine != "norm average" or quirks:
        check_models(theirs[0], ours[0])
        check_conditionings(theirs[1:], ours[1:], joined=combine == "concat")


@pytest.mark.parametrize("quirks", [False, True], ids=["every site", "quirks"])
def test_apply(quirks):
    conditionings = {"positive": [prompt(model(), 6)], "negative": [prompt(model(), 8)]}
    theirs, ours = both(
        "ApplyInstantID", quirks=quirks, reached=not quirks, control_net=FakeControl(),
        image=pictures(), image_kps=pictures(seed=9), weight=0.6, start_at=0.1, end_at=0.8,
        **conditionings,
    )  # fmt: skip
    check_models(theirs[0], ours[0], steps=5)
    check_conditionings(theirs[1:], ours[1:])


def check_conditionings(theirs, ours, *, joined=False):
    for left, right in zip(theirs, ours, strict=True):
        for (text, want), (our_text, found) in zip(left, right, strict=True):
            assert text is our_text and want.keys() == found.keys()
            tokens = want["cross_attn_controlnet"]
            if joined:  # theirs gives the ControlNet a row for each picture, and it sees one
                tokens = tokens.reshape(1, -1, tokens.shape[-1])
            assert relative(found["cross_attn_controlnet"], tokens) < TOLERANCE
            assert found["control_apply_to_uncond"] is want["control_apply_to_uncond"] is False
            assert torch.equal(found.get("mask", tokens), want.get("mask", tokens))
            a, b = found["control"], want["control"]
            assert (a.strength, a.window, a.previous) == (b.strength, b.window, b.previous)
            differs = (a.cond_hint_original - b.cond_hint_original).abs().amax(1) > 1e-3
            assert int(differs.sum()) <= 20  # a few pixels at the edges of ellipses


def test_chained_twice_and_run_four_times_it_is_the_same_picture():
    inputs = {"instantid": state(), "insightface": analysis(), "noise": 0.0} | WINDOW
    first = run("InstantIDAttentionPatch", image=pictures(), model=model(), weight=0.5, **inputs)[0]
    rendered = []
    for _ in range(4):
        second = run(
            "InstantIDAttentionPatch", image=pictures(seed=5), model=first, weight=0.4, **inputs
        )[0]
        rendered.append(sample(second))
    assert all(torch.equal(rendered[0], other) for other in rendered[1:])
    assert relative(rendered[0], sample(first)) > 0.001


def test_keypoints_preprocessor():
    (theirs,) = reference.run(
        "FaceKeypointsPreprocessor", faceanalysis=analysis(), image=pictures(2)
    )
    (ours,) = run("FaceKeypointsPreprocessor", faceanalysis=analysis(), image=pictures(2))
    assert ours.shape == theirs.shape
    assert int(((ours - theirs).abs().amax(-1) > 1e-3).sum()) <= 20


def test_control_net_node():
    face = {"cond": noise(1, 16, 2048, seed=1), "uncond": noise(1, 16, 2048, seed=2)}
    inputs = {
        "face_embeds": face, "control_net": FakeControl(), "image_kps": pictures(), "strength": 0.4,
        "positive": [prompt(model(), 6)], "negative": [prompt(model(), 8)], **WINDOW,
    }  # fmt: skip
    theirs = reference.run("ApplyInstantIDControlNet", **inputs)
    check_conditionings(theirs, run("ApplyInstantIDControlNet", **inputs))
