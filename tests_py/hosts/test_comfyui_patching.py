# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Image prompts in ComfyUI's models: what they compute, in every form of call."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from comfyui_oracle import make_prompt, plainly, relative
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol_sampling import make_comfy, make_conds, sample
from protocol_unet import SD1, SDXL, SpatialTransformer
from sampling_host import Sampler, entry

import attnpatch as ap

STRUCTURES = pytest.mark.parametrize("structure", [SD1, SDXL], ids=["sd1", "sdxl"])
SIGMA = 4.0


@pytest.fixture(scope="module")
def model():
    return make_comfy(SD1)


def run(model, x, conds, level=SIGMA, **told):
    """One step without guidance's sum: predictions of cond and uncond."""
    options = model.model_options | {
        "transformer_options": model.model_options["transformer_options"] | told
    }
    sigma = torch.full((len(x),), level)
    return torch.cat(Sampler().calc_cond_batch(model.model, conds, level * x, sigma, options))


@STRUCTURES
@pytest.mark.parametrize("rule", ["deepcopy", "shared", "aliased"])
def test_chains_give_the_same_picture_however_often_they_are_made(structure, rule):
    model = make_comfy(structure, clone_rule=rule)
    x, conds = make_conds(structure)
    first, second = make_prompt(structure, weight=0.7), make_prompt(structure, seed=2, end=0.6)
    plain = sample(model, x, conds)
    upstream = ap.patch_model(model, first)  # its output stays, as hosts keep outputs
    alone = sample(upstream, x, conds)
    together = sample(ap.patch_model(model, [first, second]), x, conds)
    for _ in range(4):
        assert torch.equal(sample(ap.patch_model(upstream, second), x, conds), together)
    assert torch.equal(sample(upstream, x, conds), alone)
    assert torch.equal(sample(model, x, conds), plain)
    assert not torch.equal(alone, plain)


def test_a_unet_without_a_middle_block():
    structure = replace(SD1, middle_depth=0)
    model = make_comfy(structure)
    model.model.diffusion_model.middle_block = None
    x, conds = make_conds(structure)
    patched = ap.patch_model(model, make_prompt(structure))
    assert len(ap.report(patched).matched) == 15
    expected = sample(plainly(model, structure), x, conds)
    assert relative(sample(patched, x, conds), expected) < 1e-5
    assert relative(sample(model, x, conds), expected) > 1e-3


@STRUCTURES
@pytest.mark.parametrize("tells", [True, False])
def test_a_masked_prompt_on_every_layer(structure, tells, monkeypatch):
    monkeypatch.setattr(SpatialTransformer, "tells_shape", tells)
    model = make_comfy(structure)
    mask = torch.rand(1, 40, 56, generator=torch.Generator().manual_seed(3))
    options = {"mask": mask, "weight": 0.8, "start": 0.2, "end": 0.75}
    x, conds = make_conds(structure, batch=2, size=(9, 14))
    ours = sample(ap.patch_model(model, make_prompt(structure, **options)), x, conds, steps=5)
    expected = sample(plainly(model, structure, **options), x, conds, steps=5)
    assert relative(expected, sample(model, x, conds, steps=5)) > 1e-3
    assert relative(ours, expected) < 1e-5


@settings(max_examples=12, deadline=None)
@given(
    size=st.tuples(st.integers(1, 19), st.integers(1, 19)),
    batch=st.integers(1, 3),
    chunks=st.integers(1, 3),
    first=st.integers(0, 1),
    tells=st.booleans(),
)
def test_any_size_batch_and_order_of_chunks(size, batch, chunks, first, tells):
    model = make_comfy(SD1)
    mask = torch.rand(batch, *size, generator=torch.Generator().manual_seed(3))
    x, conds = make_conds(batch=batch, size=size)
    patched = ap.patch_model(model, make_prompt(mask=mask, pictures=batch))
    expected = plainly(model, mask=mask, pictures=batch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SpatialTransformer, "tells_shape", tells)
        results = [
            sample(m, x, conds, steps=1, sampler=Sampler(chunks=chunks, first=first))
            for m in (patched, expected)
        ]
    assert relative(*results) < 1e-5


@pytest.mark.parametrize("first", [0, 1])
def test_many_conditionings_areas_and_a_third_kind(model, first):
    """Chunks as [1, 0, 0] by areas, and as [2, 1, 0] by samplers of three conditionings."""
    x, (cond, uncond) = make_conds(size=(16, 16))
    tokens = [one["model_conds"]["c_crossattn"].cond for one in (cond[0], uncond[0])]
    parts = [
        entry(tokens[0], "left", area=(16, 8, 0, 0)),
        entry(tokens[1], "right", area=(8, 16, 8, 0)),
    ]
    third = [entry(tokens[0] + tokens[1], "third")]
    for conds in ([cond + parts, uncond], [cond, uncond, third], [cond * 2, uncond]):
        sampler = Sampler(first=first)
        patched, expected = ap.patch_model(model, make_prompt()), plainly(model)
        sigma = torch.full((1,), SIGMA)
        results = [
            torch.cat(sampler.calc_cond_batch(m.model, conds, 4 * x, sigma, m.model_options))
            for m in (patched, expected)
        ]
        assert relative(*results) < 1e-5
    assert [1, 0, 0] in sampler.calls or [0, 0, 1] in sampler.calls


def test_a_host_that_does_not_tell_kinds(model):
    x, (cond, _) = make_conds()
    slot_model = ap.patch_model(model, make_prompt())
    seen = []
    unet = model.model.diffusion_model
    for told in ({"cond_or_uncond": [0]}, {}):
        options = slot_model.model_options["transformer_options"] | told
        context = cond[0]["model_conds"]["c_crossattn"].cond
        options |= {"sigmas": torch.tensor([SIGMA])}
        seen.append(unet(x, torch.tensor([500.0]), context, transformer_options=dict(options)))
    assert torch.equal(*seen)


@pytest.mark.parametrize("window", [[2, 3], [4, 0]])
def test_context_windows_show_their_own_pictures(model, window):
    mask = torch.rand(5, 16, 16, generator=torch.Generator().manual_seed(3))
    x, conds = make_conds(batch=2)
    told = {"ad_params": {"sub_idxs": window, "full_length": 5}}
    prompt = make_prompt(pictures=5, mask=mask)
    ours = run(ap.patch_model(model, prompt), x, conds, **told)
    assert relative(ours, run(plainly(model, pictures=5, mask=mask), x, conds, **told)) < 1e-5
    core = SimpleNamespace(index_list=window, dim=0)
    assert torch.equal(run(ap.patch_model(model, prompt), x, conds, context_window=core), ours)
    core = SimpleNamespace(index_list=window[1:], dim=0, causal_anchor_index=window[0])
    assert torch.equal(run(ap.patch_model(model, prompt), x, conds, context_window=core), ours)


@pytest.mark.parametrize(
    "options",
    [{"weight": 0.0}, {"start": 1.0, "end": 1.0}, {"weight": {}}, {"mask": torch.zeros(4, 4)}],
    ids=["weight", "window", "layers", "mask"],
)
def test_a_prompt_without_effect_is_bit_equal_to_none(model, options):
    x, conds = make_conds()
    if options.get("weight") == {}:
        with pytest.raises(ValueError, match="weight"):
            ap.patch_model(model, make_prompt(**options))
        return
    patched = ap.patch_model(model, make_prompt(**options))
    assert torch.equal(sample(patched, x, conds), sample(model, x, conds))


def test_steps_outside_of_the_window_are_bit_equal(model):
    x, conds = make_conds()
    patched = ap.patch_model(model, make_prompt(start=0.3, end=0.6))
    sampling = model.model.model_sampling
    for percent, inside in [(0.29, False), (0.3, True), (0.6, True), (0.61, False)]:
        level = sampling.percent_to_sigma(percent)
        same = torch.equal(run(patched, x, conds, level), run(model, x, conds, level))
        assert same != inside


@STRUCTURES
def test_every_layer_is_patched_once(structure):
    model = make_comfy(structure)
    patched = ap.patch_model(model, make_prompt(structure))
    slots, matched = patched.slots(), ap.report(patched).matched
    calls = []

    def count(key, slot):
        def counted(*args):
            calls.append(key)
            return slot(*args)

        return counted

    for key, slot in slots.items():
        slots[key] = count(key, slot)
    x, conds = make_conds(structure)
    run(patched, x, conds[:1])
    layers = {"sd1": 16, "sdxl": 70}["sd1" if structure is SD1 else "sdxl"]
    assert len(calls) == len(set(calls)) == layers
    assert sum(key[0] == "middle" for key in calls) == structure.middle_depth
    assert len(matched) == layers
    quirky = ap.report(
        ap.patch_model(model, make_prompt(structure, compat="comfyui_ipadapter_plus"))
    )
    assert len(quirky.matched) == layers - structure.middle_depth
    assert ap.report(model).matched == ()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("batch", [1, 3])
def test_half_precision(dtype, batch):
    model = make_comfy(dtype=dtype)
    slot = ap.patch_model(model, make_prompt(mask=torch.rand(batch, 8, 8))).slots()["input", 1, 0]
    q = torch.randn(batch, 64, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    text = torch.randn(batch, 7, 16).to(dtype)
    options = {"n_heads": 2, "cond_or_uncond": [0], "original_shape": [batch, 4, 8, 8]}
    out = slot(q, text, text, options)
    exact = slot(*(x.float() for x in (q, text, text)), options)
    assert out.dtype is dtype
    assert relative(out.float(), exact) < 2e-2
    # A text in another dtype than the queries, as hosts with small weights may have it.
    assert torch.equal(slot(q, text.float(), text.float(), options), out)


@pytest.mark.parametrize("rule", ["deepcopy", "shared"])
def test_clones_hold_no_tensor_of_their_own(rule):
    model = make_comfy(clone_rule=rule)
    patched = ap.patch_model(model, make_prompt())
    clone = patched.clone().clone().clone()
    for key, slot in patched.slots().items():
        assert clone.slots()[key].group is slot.group
    x, conds = make_conds()
    assert torch.equal(sample(clone, x, conds), sample(patched, x, conds))
    clone.model_patches_to("meta")
    assert torch.equal(sample(clone, x, conds), sample(patched, x, conds))


def test_the_global_generator_is_left_alone(model):
    x, conds = make_conds()
    before = torch.get_rng_state()
    sample(ap.patch_model(model, make_prompt(mask=torch.ones(4, 4))), x, conds)
    assert torch.equal(torch.get_rng_state(), before)


def test_threads_do_not_disturb_each_other(model):
    x, conds = make_conds()
    shared = ap.patch_model(model, make_prompt(mask=torch.rand(8, 8)))
    other = ap.patch_model(make_comfy(seed=1), make_prompt(seed=4, weight=0.5))
    jobs = [(shared, 2 * x, 3), (shared, x, 2), (other, x, 2)]
    expected = [sample(m, noise, conds, steps=steps) for m, noise, steps in jobs]
    found = [[] for _ in jobs]

    def work(place):
        m, noise, steps = jobs[place]
        for _ in range(3):
            found[place].append(sample(m, noise, conds, steps=steps))

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for many, one in zip(found, expected, strict=True):
        assert len(many) == 3 and all(torch.equal(result, one) for result in many)


def test_a_clone_says_what_it_has_and_is_never_changed_in_place(model):
    first, second = make_prompt(), make_prompt(seed=2)
    once = ap.patch_model(model, first)
    assert ap.attached(model) == ap.PatchStack()
    assert ap.attached(once) == ap.PatchStack([first])
    assert ap.attached(ap.patch_model(once, second)) == ap.PatchStack([first, second])
    with pytest.raises(
        TypeError, match=r"ComfyPatcher of ComfyUI .* nothing to detach; patch_model"
    ):
        ap.detach(once)
    assert ap.attached(once) == ap.PatchStack([first])


def test_other_networks_and_orders_are_refused(model):
    class Flux(torch.nn.Module):
        pass

    flux = make_comfy()
    flux.model.diffusion_model = Flux()
    with pytest.raises(TypeError, match=r"expected a UNet of SD1.*that is a Flux"):
        ap.patch_model(flux, make_prompt())
    with pytest.raises(ValueError, match="cond_or_uncond"):
        ap.patch_model(model, make_prompt(), cond_or_uncond=(1, 0))
    with pytest.raises(TypeError, match="ComfyPatcher of ComfyUI is not patched in place"):
        ap.attach(model, make_prompt())
    with pytest.raises(ValueError, match="70"):
        ap.patch_model(model, make_prompt(SDXL))
