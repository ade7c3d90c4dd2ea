# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What layers read is brought to the device before the model runs, never inside it.

A host that records a forward pass as a graph may free or move what was allocated in it.
"""

import pytest
import torch
from attach_case import GUIDED, original, prompt, run
from comfyui_oracle import make_prompt
from protocol_sampling import make_comfy, make_conds, sample

import attnpatch as ap
from attnpatch.engine.branch_plan import BranchPlan
from attnpatch.engine.site_attention import SiteAttention


@pytest.fixture
def events(monkeypatch):
    """What was made, and which layers attended, in order."""
    found = []
    make, attend = BranchPlan._make, SiteAttention.attend

    def made(self, site, dtype, device):
        found.append(("made", site.layer.index, dtype))
        return make(self, site, dtype, device)

    def attended(self, *args, **kwargs):
        found.append(("attended", self.site.layer.index, args[0].dtype))
        return attend(self, *args, **kwargs)

    monkeypatch.setattr(BranchPlan, "_make", made)
    monkeypatch.setattr(SiteAttention, "attend", attended)
    return found


def check(events, layers):
    made = [event for event in events if event[0] == "made"]
    assert len(made) == layers and len(events) >= 2 * layers
    assert events[:layers] == made, "all before the first layer"
    assert {dtype for *_, dtype in made} == {events[-1][2]}


@pytest.mark.parametrize("mask", [None, torch.eye(8)], ids=["everywhere", "masked"])
def test_diffusers(events, mask):
    with ap.attach(original(), prompt(mask=mask), **GUIDED):
        run(original())
        check(events, 16)
        run(original())
    assert sum(kind == "made" for kind, *_ in events) == 16, "once for all calls"


def test_diffusers_under_autocast(events):
    with ap.attach(original(), prompt(), **GUIDED), torch.autocast("cpu", torch.bfloat16):
        run(original())
    assert {dtype for kind, _, dtype in events if kind == "made"} == {torch.bfloat16}
    assert [kind for kind, *_ in events[:16]] == ["made"] * 16


def test_what_is_trained_is_made_at_each_layer(events):
    mask = torch.rand(4, 4).requires_grad_()
    with ap.attach(original(), prompt(mask=mask), **GUIDED):
        run(original())
    assert events[0][0] == "attended" or events[1][0] == "attended"


@pytest.mark.parametrize("mask", [None, torch.eye(8)], ids=["everywhere", "masked"])
def test_comfyui(events, mask):
    """By the wrapper that stands around its UNet."""
    host = make_comfy()
    assert host.model.diffusion_model.wraps
    x, conds = make_conds()
    sample(ap.patch_model(host, make_prompt(weight=0.5, mask=mask)), x, conds, steps=1)
    check(events, 16)
