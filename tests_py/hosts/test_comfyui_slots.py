# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Other packs beside ours: in our slots, in those of whole blocks, for one call alone."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from comfyui_oracle import make_pairs, make_prompt, relative
from protocol_sampling import ComfyPatcher, make_comfy, make_conds, sample
from protocol_unet import UNet, attention, optimized_attention

import attnpatch as ap

KEY = ("input", 4, 0)


@pytest.fixture(scope="module")
def model():
    return make_comfy()


class Term:
    """A foreign patch: the host's attention and something of its own."""

    def __call__(self, q, k, v, options):
        return attention(q, k, v, options["n_heads"]) + q


def reduction():
    return ap.SlothfulAttention()


@pytest.mark.parametrize("key", [KEY, KEY[:2]], ids=["layer", "block"])
@pytest.mark.parametrize("rule", ["deepcopy", "shared"])
def test_a_patch_of_another_pack_counts_before_and_after_ours(key, rule):
    model = make_comfy(clone_rule=rule)
    x, conds = make_conds()
    before = model.clone()
    before.set_model_attn2_replace(Term(), *key)
    prompt = make_prompt(weight=0.5)
    expected = sample(ap.patch_model(before, prompt), x, conds)
    assert relative(sample(ap.patch_model(model, prompt), x, conds), expected) > 1e-4
    if len(key) == 2:  # a layer's own slot is the later one's alone
        after = ap.patch_model(model, prompt).clone()
        after.set_model_attn2_replace(Term(), *key)
        assert relative(sample(after, x, conds), expected) < 1e-5
        again = ap.patch_model(after, make_prompt(weight=0.25, seed=5))
        both = ap.patch_model(before, [prompt, make_prompt(weight=0.25, seed=5)])
        assert relative(sample(again.clone(), x, conds), sample(both, x, conds)) < 1e-5


def test_a_slot_reads_what_is_trained_at_each_call(model):
    """A second backward pass needs a graph of its own, and a step between them counts."""
    cond, uncond = make_pairs()
    leaf = cond[0][1].requires_grad_()
    patched = ap.patch_model(model, ap.ImagePrompt.from_keys_values(cond, uncond))
    slot = patched.model_options["transformer_options"]["patches_replace"]["attn2"]["input", 1, 0]
    generator = torch.Generator().manual_seed(3)
    q, text = (torch.randn(1, n, 16, generator=generator) for n in (4, 7))
    options = {"n_heads": 2, "cond_or_uncond": [0], "original_shape": [1, 4, 2, 2]}
    before = slot(q, text, text, options)
    (first,) = torch.autograd.grad(before.sum(), leaf)
    leaf.data.mul_(2.0)
    after = slot(q, text, text, options)
    (second,) = torch.autograd.grad(after.sum(), leaf)
    assert first.abs().max() > 0 and torch.equal(first, second)
    assert not torch.equal(after, before)


@pytest.mark.parametrize("rule", ["deepcopy", "shared", "aliased"])
def test_terms_that_other_packs_add_to_our_slot(rule):
    """They do so on a clone, and expect that its parent keeps what it had."""
    model = make_comfy(clone_rule=rule)
    x, conds = make_conds()
    ours = ap.patch_model(model, make_prompt(weight=0.5))
    alone = sample(ours, x, conds)
    sampling = model.model.model_sampling
    window = {"sigma_start": sampling.percent_to_sigma(0.4), "sigma_end": 0.0}
    clone = ours.clone()
    seen = []

    def term(out, q, k, v, extra_options, strength, **kwargs):
        seen.append(float(extra_options["sigmas"][0]))
        return strength * out

    clone.slots()[KEY].add(term, strength=0.5, **window)
    changed = sample(clone, x, conds)
    assert seen and all(sigma <= window["sigma_start"] for sigma in seen)
    assert relative(changed, alone) > 1e-4
    assert torch.equal(sample(ours, x, conds), alone)
    # Patching again keeps it.
    again = ap.patch_model(clone, make_prompt(weight=0.0))
    assert torch.equal(sample(again, x, conds), changed)


@pytest.mark.parametrize("rule", ["deepcopy", "shared", "aliased"])
def test_terms_of_other_packs_do_not_gather_with_every_run(rule):
    """A workflow that runs again, with another weight downstream, clones what it kept of ours."""
    x, conds = make_conds()
    kept = ap.patch_model(make_comfy(clone_rule=rule), make_prompt(weight=0.5))
    kept = ap.patch_model(kept, make_prompt(weight=0.25, seed=5))

    def run(strength):
        clone = kept.clone().clone()
        clone.slots()[KEY].add(lambda out, *args: strength * out)
        return sample(clone, x, conds)

    first = run(0.5)
    assert relative(run(0.75), first) > 1e-4
    assert torch.equal(run(0.5), first)


def test_a_host_without_callbacks_is_patched_as_well(monkeypatch):
    monkeypatch.delattr(ComfyPatcher, "add_callback_with_key")
    x, conds = make_conds()
    patched = ap.patch_model(make_comfy(), make_prompt(weight=0.5)).clone()
    expected = ap.patch_model(make_comfy(), [make_prompt(weight=0.5)])
    assert patched.callbacks == {}
    assert torch.equal(sample(patched, x, conds), sample(expected, x, conds))


def test_a_wrapper_around_our_slot_changes_nothing(model):
    x, conds = make_conds(size=(32, 32))
    before = model.clone()
    before.set_model_attn2_replace(Term(), *KEY)
    patched = ap.patch_model(before, [make_prompt(), reduction()])
    expected = sample(patched, x, conds)
    wrapped = patched.clone()
    slot = wrapped.slots()[KEY]
    wrapped.set_model_attn2_replace(lambda *args: slot(*args), *KEY)
    assert torch.equal(sample(wrapped, x, conds), expected)


@pytest.mark.parametrize("key", [("input", 1), ("input", 1, 0)], ids=["block", "layer"])
def test_nothing_is_reduced_where_another_pack_perturbs_for_one_call(model, key):
    """Guidance packs replace self-attention in a call of their own, and count on all tokens."""
    x, conds = make_conds(size=(32, 32))
    options = {"patches_replace": {"attn1": {key: lambda q, k, v, options: v}}}

    def with_other(patched):
        told = patched.model_options["transformer_options"]
        replaced = told.get("patches_replace", {})
        both = {**replaced.get("attn1", {}), **options["patches_replace"]["attn1"]}
        return sample(patched, x, conds, patches_replace={**replaced, "attn1": both})

    sizes = []
    patched = ap.patch_model(model, reduction())
    patched.set_model_patch(
        lambda n, context, value, extra: (
            sizes.append((extra["block"], context.shape[1] < n.shape[1])) or (n, context, value)
        ),
        "attn1_patch",
    )
    sample(patched, x, conds)
    assert not any(reduced for _, reduced in sizes), "ours comes last, whoever came later"
    assert relative(with_other(patched), sample(patched, x, conds)) > 1e-4
    one = sample(ap.patch_model(model, reduction()), x, conds)
    assert relative(one, sample(model, x, conds)) > 1e-5


def test_batches_that_another_pack_cuts_up_are_left_alone(model):
    """HyperTile: queries in tiles, keys and values as they are; ours must not reduce those."""
    x, conds = make_conds(size=(32, 32))

    def tiles(q, k, v, options):
        return (
            q.reshape(4 * q.shape[0], -1, q.shape[2]),
            *(t.reshape(4 * t.shape[0], -1, t.shape[2]) for t in (k, v)),
        )

    def whole(out, options):
        return out.reshape(out.shape[0] // 4, -1, out.shape[2])

    def tiled(host):
        clone = host.clone()
        clone.set_model_patch(tiles, "attn1_patch")
        clone.set_model_patch(whole, "attn1_output_patch")
        return sample(clone, x, conds)

    assert torch.equal(tiled(ap.patch_model(model, reduction())), tiled(model))


def test_a_host_without_a_place_around_its_calls(model, monkeypatch):
    monkeypatch.setattr(UNet, "wraps", False)
    x, conds = make_conds(size=(32, 32))
    stack = [make_prompt(), reduction()]
    without = sample(ap.patch_model(model, stack), x, conds)
    monkeypatch.setattr(UNet, "wraps", True)
    assert torch.equal(sample(ap.patch_model(model, stack), x, conds), without)


@pytest.fixture
def attention_module(monkeypatch):
    """The host's module of attention functions."""
    module = SimpleNamespace(optimized_attention=optimized_attention)
    monkeypatch.setitem(sys.modules, "comfy.ldm.modules.attention", module)
    return module


def counted(calls, kind):
    def chosen(q, k, v, heads, mask=None, attn_precision=None, **kwargs):
        calls.append(kind)
        return attention(q, k, v, heads)

    return chosen


def test_attention_that_the_user_chose_stays(model, attention_module):
    x, conds = make_conds()
    patched = ap.patch_model(model, make_prompt(start=0.5))
    expected = sample(patched, x, conds)
    calls = []

    def override(function, *args, **kwargs):
        calls.append("override")
        return function(*args)

    found = sample(patched, x, conds, optimized_attention_override=override)
    assert relative(found, expected) < 1e-5
    assert len(calls) == 2 * 32, "16 layers, self- and cross-attention, two steps"
    calls.clear()
    attention_module.optimized_attention = counted(calls, "sage")
    assert relative(sample(patched, x, conds), expected) < 1e-5
    assert len(calls) == 2 * 32


def test_older_hosts_take_fewer_arguments(model, attention_module):
    def older(q, k, v, heads, mask=None):
        return attention(q, k, v, heads)

    slot = ap.patch_model(model, make_prompt(start=0.9)).slots()[KEY]
    q, text = torch.randn(1, 4, 32), torch.randn(1, 7, 32)
    options = {"n_heads": 4, "original_shape": [1, 4, 4, 4], "sigmas": torch.tensor([14.0])}
    expected = attention(q, text, text, 4)
    for function in (older, counted([], "new")):
        attention_module.optimized_attention = function
        assert torch.equal(slot(q, text, text, options), expected)
