# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The node for normalized attention guidance."""

import inspect

import pytest
import torch

import attnpatch
from attnpatch import NormalizedAttentionGuidance
from attnpatch.nodes import NODES

SPEC = next(spec for spec in NODES if spec.id == "AttentionPatchesNAG")
TEXT = torch.randn(1, 5, 9)


@pytest.fixture(autouse=True)
def patches(monkeypatch):
    """Give what the node would patch a model with."""
    monkeypatch.setattr(attnpatch, "patch_model", lambda model, patches: (model, patches))


def run(negative=((TEXT, {}),), **values):
    widgets = {i.id: i.default for i in SPEC.inputs if i.widget}
    given = {"model": "model", "negative": negative, **widgets, **values}
    ((model, (patch,)),) = SPEC.call(given).values
    assert model == "model"
    return patch


def test_ranges_are_those_of_the_hosts_own_node_and_defaults_those_of_the_patch():
    found = [(i.id, i.minimum, i.maximum, i.step) for i in SPEC.inputs if i.id.startswith("nag_")]
    assert found == [
        ("nag_scale", 0.0, 50.0, 0.1),
        ("nag_alpha", 0.0, 1.0, 0.01),
        ("nag_tau", 1.0, 10.0, 0.01),
    ]
    assert run() == NormalizedAttentionGuidance(TEXT)
    usual = {
        n: p.default for n, p in inspect.signature(NormalizedAttentionGuidance).parameters.items()
    }
    widgets = {i.id: i.default for i in SPEC.inputs}
    assert (widgets["nag_tau"], widgets["nag_alpha"]) == (usual["tau"], usual["alpha"])


def test_every_widget_counts():
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    values = {"nag_scale": 3.0, "nag_alpha": 0.5, "nag_tau": 1.5, "start_at": 0.1, "end_at": 0.8}
    found = run(((TEXT, {"attention_mask": mask}),), **values, blocks="m0, u1")
    right = NormalizedAttentionGuidance(TEXT, 3.0, 1.5, 0.5, 0.1, 0.8, "m0,u1", mask)
    assert found == right


def test_combined_conditionings_are_refused():
    with pytest.raises(ValueError, match="negative: expected one conditioning, got 2"):
        run(((TEXT, {}), (TEXT, {})))
