# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The guidance nodes: what their widgets make of a model."""

import math

import pytest
import torch

import attnpatch
from attnpatch import PerturbedAttentionGuidance, SelfAttentionGuidance, SmoothedEnergyGuidance
from attnpatch.nodes import NODES

BY_ID = {spec.id: spec for spec in NODES}
ADVANCED = {
    "AttentionPatchesSAG": SelfAttentionGuidance,
    "AttentionPatchesPAG": PerturbedAttentionGuidance,
    "AttentionPatchesSEG": SmoothedEnergyGuidance,
}


@pytest.fixture(autouse=True)
def patches(monkeypatch):
    """Give what a node would patch a model with."""
    monkeypatch.setattr(attnpatch, "patch_model", lambda model, patches: (model, patches))


def run(name, **values):
    spec = BY_ID[name]
    widgets = {i.id: i.default for i in spec.inputs if i.widget and i.type != "COMBO"}
    widgets |= {i.id: i.options()[0] for i in spec.inputs if i.type == "COMBO"}
    ((model, (patch,)),) = spec.call({"model": "model", **widgets, **values}).values
    assert model == "model"
    return patch


def test_drop_in_node_has_the_known_widgets():
    found = [
        (i.id, i.default, i.minimum, i.maximum, i.step)
        for i in BY_ID["SelfAttentionGuidance"].inputs
        if i.widget
    ]
    assert found == [("scale", 0.5, -2.0, 5.0, 0.01), ("blur_sigma", 2.0, 0.0, 10.0, 0.1)]
    assert run("SelfAttentionGuidance") == SelfAttentionGuidance()
    assert run("SelfAttentionGuidance", scale=-1.0) == SelfAttentionGuidance(-1.0)


@pytest.mark.parametrize(("name", "kind"), ADVANCED.items())
def test_advanced_nodes(name, kind):
    assert run(name) == kind(), "defaults are those of the patch"
    given = {"scale": 2.5, "blocks": "m0.0", "rescale": 0.4, "rescale_mode": "partial"}
    found = run(name, **given, start_at=0.1, end_at=0.8)
    assert found == kind(**given, start=0.1, end=0.8)


def test_attention_is_shown_over_the_pictures(monkeypatch, image):
    maps = torch.tensor([[[0.0, 2.0]], [[2.0, 0.0]]])
    monkeypatch.setattr(attnpatch, "recorded_attention", lambda model: maps)
    spec = BY_ID["AttentionPatchesShowAttention"]
    pictures = image(2, 8, 12)
    widgets = {"model": "model", "image": pictures, "threshold": 1.0, "opacity": 1.0}
    (heat,) = spec.call({**widgets, "show": "heat map"}).values
    assert heat.shape == pictures.shape
    blue, red = heat[0, 0, 0], heat[0, 0, -1]
    assert blue[2] > blue[0] and red[0] > red[2]
    assert torch.equal(heat[1, 0, 0], red) and torch.equal(heat[1, 0, -1], blue)
    (mask,) = spec.call({**widgets, "show": "mask of the blur"}).values
    torch.testing.assert_close(mask[0, :, :6], pictures[0, :, :6], rtol=0, atol=0.003)
    assert (mask[0, :, 6:] - pictures[0, :, 6:]).abs().max() > 0.1
    with pytest.raises(ValueError, match="image: 3 pictures, but 2 were sampled"):
        spec.call({**widgets, "image": image(3, 8, 12), "show": "heat map"})
    maps = None
    with pytest.raises(ValueError, match="model: nothing was recorded"):
        spec.call({**widgets, "show": "heat map"})


def test_blurs():
    assert run("AttentionPatchesSEG", blur_sigma=-1.0).blur_sigma == math.inf
    assert run("AttentionPatchesSEG", blur_sigma=7.5).blur_sigma == 7.5
    assert run("AttentionPatchesSAG", threshold=1.2).threshold == 1.2
    assert run("AttentionPatchesPAG", adaptive_scale=0.3).adaptive_scale == 0.3
    assert run("AttentionPatchesPAG", rescale_mode="snf").rescale_mode == "snf"
    with pytest.raises(ValueError, match="blocks: expected"):
        run("AttentionPatchesPAG", blocks="middle")
