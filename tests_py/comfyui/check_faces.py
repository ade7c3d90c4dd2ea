# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Adapters for faces: nodes of the public pack and ours give the same picture in the real ComfyUI.

Faces come from a stand-in for insightface, whose way to cut them out is ours: tests_py/faces/
compares that with the package itself.
"""

from __future__ import annotations

import sys
from functools import partial
from types import ModuleType, SimpleNamespace
from unittest import mock

import pytest
import reference_pack
import torch
from check_nodes import ours, picture, theirs
from narrow_adapters import FAMILIES, Maker
from narrow_models import CONTEXT, EMBED, WIDTH, make_clip_vision, make_model, noise
from real_host import relative, sample
from side_by_side import TOLERANCE, model_of, plain_sample

from attnpatch._native import vision_module

pytestmark = reference_pack.needs_pack
PICTURE = picture(1, size=(120, 140), count=2)


class Analyser:
    """Finds one face in every picture; which one follows from the picture."""

    det_model = SimpleNamespace(input_size=(640, 640))
    points = torch.tensor([[45.0, 50], [80, 48], [62, 70], [50, 90], [76, 88]]).numpy()

    def get(self, picture):
        embedding = noise(512, seed=int(picture.sum()) % 1000).numpy()
        normed = embedding / (embedding**2).sum() ** 0.5
        face = {"kps": self.points, "embedding": embedding, "normed_embedding": normed}
        return [SimpleNamespace(bbox=[30.0, 20, 95, 110], det_score=0.9, **face)]


def _cut(picture, landmark, image_size):
    return vision_module("attnpatch.faces").align_face(picture, landmark, image_size)


@pytest.fixture(autouse=True)
def insightface(monkeypatch):
    """The one function of the package that the pack calls."""
    package, utils = ModuleType("insightface"), ModuleType("insightface.utils")
    utils.face_align = SimpleNamespace(norm_crop=_cut)
    monkeypatch.setitem(sys.modules, "insightface", package)
    monkeypatch.setitem(sys.modules, "insightface.utils", utils)


@pytest.fixture(autouse=True)
def shallow_perceivers():
    """The pack makes them as deep and wide as published ones: hundreds of millions of values."""
    reference_pack.load()
    networks = sys.modules["reference_ipadapter_plus.image_proj_models"]
    original = networks.FacePerceiverResampler

    def make(**options):
        return original(**options | {"depth": 1, "heads": 1, "ff_mult": 1 / 64})

    with mock.patch.object(networks, "FacePerceiverResampler", make):
        yield


def channels_of(family):
    return [size * WIDTH // 320 for size in FAMILIES[CONTEXT[family]][1]]


def state_of(family, kind):
    maker, context, channels = Maker(seed=5), CONTEXT[family], channels_of(family)
    if kind == "kolors":
        return maker.kolors_face(channels, face=512, embed=EMBED)
    small = {"heads": 1, "depth": 1, "mult": 1 / 64}
    projection = {
        "faceid": partial(maker.mlp, 512, context),
        "portrait": partial(maker.mlp, 512, context, tokens=16),
        "portraitunnorm": partial(maker.resampler, 512, 1280, context, 20),
        "plus": partial(maker.face_perceiver, 512, EMBED, context, **small),
        "faceidplusv2": partial(maker.face_perceiver, 512, EMBED, context, **small),
    }[kind]()
    sites = maker.sites(channels, context)
    if not kind.startswith("portrait"):
        sites |= maker.lora(channels)
    marks = {kind: True} if kind in ("faceidplusv2", "portraitunnorm") else {}
    return {"image_proj": projection, "ip_adapter": sites, **marks}


def values_of(family, kind, **more):
    size = 336 if kind == "kolors" else 224
    return {
        "model": model_of(family),
        "ipadapter": state_of(family, kind),
        "image": PICTURE[:1],
        "weight": 0.8,
        "weight_faceidv2": 1.3,
        "weight_type": "linear",
        "combine_embeds": "concat",
        "start_at": 0.0,
        "end_at": 1.0,
        "embeds_scaling": "V only",
        "clip_vision": make_clip_vision(size=size),
        "insightface": Analyser(),
    } | more


def compare(family, name, values, **options):
    (mine, our_faces), (reference, their_faces) = ours(name, **values), theirs(name, **values)
    torch.testing.assert_close(our_faces, their_faces, rtol=0, atol=1e-6)
    expected = sample(reference, **options)
    assert relative(expected, plain_sample(family, **options)) > 1e-3, "it has no effect"
    difference = relative(sample(mine, **options), expected)
    print(f"largest difference {difference:.1e}")
    assert difference < TOLERANCE


@pytest.mark.parametrize("kind", ["faceid", "portrait", "plus", "faceidplusv2"])
def test_faces_for_sd1(kind):
    compare("sd1", "IPAdapterFaceID", values_of("sd1", kind, weight_type="ease in"))


@pytest.mark.parametrize("kind", ["faceid", "faceidplusv2", "portraitunnorm"])
def test_faces_for_sdxl(kind):
    compare("sdxl", "IPAdapterFaceID", values_of("sdxl", kind, embeds_scaling="K+V"))


@pytest.mark.parametrize("combine", ["concat", "add", "subtract", "average", "norm average"])
@pytest.mark.parametrize("kind", ["faceid", "faceidplusv2"])
def test_several_faces(kind, combine):
    values = values_of("sd1", kind, image=PICTURE, combine_embeds=combine)
    compare("sd1", "IPAdapterFaceID", values)


def test_a_face_for_each_picture_of_the_batch():
    values = values_of("sd1", "faceidplusv2", image=PICTURE)
    compare("sd1", "IPAAdapterFaceIDBatch", values, batch=2)


def test_faces_for_kolors():
    model = make_model("sdxl")
    linear = torch.nn.Linear(4096, CONTEXT["sdxl"])
    model.model.diffusion_model.encoder_hid_proj = linear.requires_grad_(False)
    values = values_of("sdxl", "kolors", model=model, weight_kolors=0.7)
    compare("sdxl", "IPAdapterFaceIDKolors", values)
