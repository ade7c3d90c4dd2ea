# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The slots of Fooocus' models: kept, added to, shared, and others' beside ours."""

from __future__ import annotations

import protocol_host as host
import pytest
import torch
from fooocus_oracle import (
    STRUCTURES,
    WIDTH,
    joint_attention,
    make_task,
    record_slots,
    relative,
    strong,
)

from attnpatch.hosts.fooocus import ip_adapter

EARLY = 9.0  # sigma


@pytest.mark.parametrize("rule", host.CLONE_RULES)
def test_the_given_model_never_changes(rule):
    structure = host.SD1
    model = host.make_host(structure, WIDTH, clone_rule=rule)
    seen = []

    def foreign(q, k, v, options):
        seen.append(options["block"])
        return host.attention(q, k, v, options["n_heads"])

    model.set_model_attn2_replace(foreign, "input", 1, 0)
    model.model_options["transformer_options"]["patches"] = {"kept": [1]}
    before = dict(model.slots())
    x, contexts = host.make_inputs(structure)
    plain = model.apply(x, EARLY, contexts, [1, 0])
    task = make_task(structure, WIDTH, weight=strong(1.0))
    patched = ip_adapter.patch_model(model, [task])
    assert model.slots() == before and len(patched.slots()) == 16
    assert patched.model is model.model
    assert patched.model_options["transformer_options"]["patches"] == {"kept": [1]}
    patched.apply(x, EARLY, contexts, [1, 0])
    assert torch.equal(model.apply(x, EARLY, contexts, [1, 0]), plain)


@pytest.mark.parametrize("rule", ["deepcopy", "shared"])
@STRUCTURES
def test_a_second_call_adds_however_often_it_is_made(structure, rule):
    model = host.make_host(structure, WIDTH, clone_rule=rule)
    first = make_task(structure, WIDTH, weight=strong(0.6), stop=0.6, seed=1)
    second = make_task(structure, WIDTH, weight=strong(0.4), seed=2)
    x, contexts = host.make_inputs(structure)
    together = ip_adapter.patch_model(model, [first, second])
    upstream = ip_adapter.patch_model(model, [first])  # stays, as hosts keep outputs
    alone, both = (m.sample(x, contexts, steps=2) for m in (upstream, together))
    for _ in range(3):
        chained = ip_adapter.patch_model(upstream, [second])
        assert relative(chained.sample(x, contexts, steps=2), both) < 1e-5
    assert torch.equal(upstream.sample(x, contexts, steps=2), alone)


@pytest.mark.parametrize("rule", ["deepcopy", "shared"])
def test_clones_share_tensors_and_compute_the_same(rule):
    structure = host.SD1
    model = host.make_host(structure, WIDTH, clone_rule=rule)
    patched = ip_adapter.patch_model(model, [make_task(structure, WIDTH, weight=strong(1.0))])
    clone = patched.clone().clone()
    x, contexts = host.make_inputs(structure)
    assert torch.equal(clone.sample(x, contexts), patched.sample(x, contexts))
    assert all(clone.slots()[key].group is slot.group for key, slot in patched.slots().items())


def test_moving_a_model_keeps_its_slots():
    structure = host.SD1
    model = host.make_host(structure, WIDTH)
    patched = ip_adapter.patch_model(model, [make_task(structure, WIDTH)])
    before = dict(patched.slots())
    patched.model_patches_to("cpu")
    patched.model_patches_to(torch.float16)
    assert patched.slots() == before


class ForeignTerm:
    """A foreign patch: plain attention plus something of its own; moves like a module."""

    def __init__(self, device="cpu"):
        self.device = device
        self.calls = 0

    def __call__(self, q, k, v, options):
        self.calls += 1
        return host.attention(q, k, v, options["n_heads"]) + 0.1

    def to(self, device):
        return ForeignTerm(device)


@pytest.mark.parametrize("key", [("input", 4, 0), ("input", 4)], ids=["transformer", "block"])
def test_a_foreign_patch_is_called_and_our_difference_added(key):
    structure = host.SD1
    model = host.make_host(structure, WIDTH)
    foreign = ForeignTerm()
    model.set_model_attn2_replace(foreign, *key)
    task = make_task(structure, WIDTH, weight=strong(1.0))
    patched = ip_adapter.patch_model(model, [task])
    foreign = patched.slots()["input", 4, 0].previous  # hosts may have copied it
    calls = record_slots(patched)
    x, contexts = host.make_inputs(structure)
    patched.apply(x, EARLY, contexts, [1, 0])
    q, k, v, options, out = calls["input", 4, 0]
    expected = joint_attention(
        q, k, v, options["n_heads"], tasks=[task], number=2, chunks=[1, 0], progress=0.1
    )
    assert foreign.calls == 1
    assert relative(out, expected + 0.1) < 1e-5
    late = ip_adapter.patch_model(model, [(*task[:1], 0.0, 1.0)])
    same = [m.apply(x, EARLY, contexts, [0]) for m in (late, model)]
    assert torch.equal(*same)


def test_a_foreign_patch_moves_and_is_copied_with_the_model():
    model = host.make_host(host.SD1, WIDTH)
    model.set_model_attn2_replace(ForeignTerm(), "input", 1, 0)
    patched = ip_adapter.patch_model(model, [make_task(host.SD1, WIDTH)])
    before = patched.slots()["input", 1, 0].previous
    clone = patched.clone()
    assert clone.slots()["input", 1, 0].previous is not before  # the host's rule for objects
    clone.model_patches_to("meta")
    assert clone.slots()["input", 1, 0].previous.device == "meta"
    assert patched.slots()["input", 1, 0].previous is before and before.device == "cpu"
