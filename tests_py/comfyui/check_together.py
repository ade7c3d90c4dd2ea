# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Image prompts beside other people's patches, and in every kind of call that the host makes."""

from __future__ import annotations

import pytest
import reference_pack
import torch
from narrow_adapters import make_features
from narrow_models import noise, prompt
from real_host import comfy, relative, sample
from side_by_side import TOLERANCE, check, model_of, our_prompt, ours, plain_sample, theirs

import attnpatch as ap

host_attention = comfy.ldm.modules.attention


@pytest.fixture(params=["sd1", "sdxl"])
def family(request):
    return request.param


def complete(family, model=None, **options):
    """Patch by the public pack, its middle block corrected."""
    with reference_pack.middle_block():
        return theirs(family, model, **options)


def stronger_text(n, context, value, extra_options):
    return n, context * 1.3, value


def sharper(q, k, v, extra_options):
    """Somebody's replacement of attention."""
    return host_attention.optimized_attention(1.5 * q, k, v, extra_options["n_heads"])


KEYS = {
    "sd1": [("input", 4, 0), ("middle", 0, 0), ("output", 5, 0)],
    "sdxl": [("input", 7, 3), ("middle", 0, 9), ("output", 0, 5)],
}


def replaced(family, model, whole_blocks=False):
    clone = model.clone()
    for block, number, index in KEYS[family]:
        index = None if whole_blocks else index
        clone.set_model_attn2_replace(sharper, block, number, index)
    return clone


@reference_pack.needs_pack
def test_a_foreign_attn2_patch_before_or_after(family):
    foreign = model_of(family).clone()
    foreign.set_model_attn2_patch(stronger_text)
    expected = complete(family, foreign)
    check(family, ours(family, foreign), expected)
    after = ours(family)
    after.set_model_attn2_patch(stronger_text)
    check(family, after, expected)


@reference_pack.needs_pack
@pytest.mark.parametrize("whole_blocks", [False, True], ids=["sites", "whole blocks"])
def test_a_foreign_replacement_before(family, whole_blocks):
    """What stood in a slot is called, and the picture's term is added to it."""

    def adding(base, slot, options):
        callback, kwargs = slot.callback[0], slot.kwargs[0]

        def attend(q, k, v, extra_options):
            out = base(q, k, v, extra_options)
            return out + callback(out, q, k, v, extra_options, **kwargs)

        return attend

    expected = complete(family)
    slots = expected.model_options["transformer_options"]["patches_replace"]["attn2"]
    for block, number, index in KEYS[family]:
        for key in list(slots):
            one = len(key) == 2 or key[2] == index or whole_blocks
            if key[:2] == (block, number) and one:
                slots[key] = adding(sharper, slots[key], None)
    check(family, ours(family, replaced(family, model_of(family), whole_blocks)), expected)


def test_a_foreign_replacement_after(family):
    """The host keeps one for each slot: theirs counts where it stands, ours elsewhere."""
    after = replaced(family, ours(family))
    elsewhere = ours(family)
    picture = sample(after)
    assert relative(picture, sample(elsewhere)) > 1e-3
    assert relative(picture, sample(replaced(family, model_of(family)))) > 0.01
    slots = after.model_options["transformer_options"]["patches_replace"]["attn2"]
    assert [key for key, slot in slots.items() if slot is sharper] == sorted(
        KEYS[family], key=list(slots).index
    )


@reference_pack.needs_pack
@pytest.mark.parametrize("first", ["theirs", "ours"])
def test_the_public_pack_in_the_same_model(family, first):
    second = {"features": make_features(seed=60), "seed": 1, "weight": 0.6}
    expected = complete(family, complete(family, weight=0.8), **second)
    if first == "theirs":
        both = ours(family, complete(family, weight=0.8), **second)
    else:
        one = ours(family, weight=0.8)
        alone = sample(one)
        both = complete(family, one, **second)
        assert torch.equal(sample(one), alone), "their patch changed the model it was given"
    check(family, both, expected)


@reference_pack.needs_pack
def test_ours_after_theirs_after_ours(family):
    options = [
        {"features": make_features(seed=40 + n), "seed": n, "weight": 0.3 + 0.1 * n}
        for n in range(3)
    ]
    expected = complete(
        family, complete(family, complete(family, **options[0]), **options[1]), **options[2]
    )
    mixed = ours(family, complete(family, ours(family, **options[0]), **options[1]), **options[2])
    check(family, mixed, expected)


class Control(comfy.controlnet.ControlBase):
    """Adds what a ControlNet would add."""

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        rows, _, height, width = x_noisy.shape
        width_of = {"sd1": 128, "sdxl": 128}[self.family]
        levels = {"sd1": 3, "sdxl": 2}[self.family]
        for _ in range(levels):
            height, width = -(-height // 2), -(-width // 2)
        middle = noise(1, width_of, height, width, seed=70).expand(rows, -1, -1, -1)
        return {"input": [], "middle": [middle], "output": []}

    def copy(self):
        control = Control()
        control.family = self.family
        return control

    def cleanup(self):
        pass

    def get_models(self):
        return []

    def pre_run(self, model, percent_to_timestep_function):
        pass


@reference_pack.needs_pack
def test_control(family):
    control = Control()
    control.family = family
    model = model_of(family)
    conds = {
        "positive": [prompt(model, 6, control=control, control_apply_to_uncond=True)],
        "negative": [prompt(model, 8, control=control, control_apply_to_uncond=True)],
    }
    expected = complete(family)
    picture = sample(expected, **conds)
    assert relative(picture, sample(expected)) > 1e-3, "the control has no effect"
    assert relative(sample(ours(family), **conds), picture) < TOLERANCE


@reference_pack.needs_pack
@pytest.mark.parametrize("kind", ["area", "mask", "several", "timesteps"])
def test_conditioning_of_parts(family, kind):
    """The host then calls with one chunk, with several conds in one batch, or on a crop."""
    model = model_of(family)
    half = torch.zeros(1, 16, 24)
    half[..., :12] = 1
    more = {
        "area": {"area": (8, 16, 4, 4), "strength": 1.0},
        "mask": {"mask": half, "mask_strength": 0.8, "set_area_to_bounds": False},
        "several": {},
        "timesteps": {"start_percent": 0.0, "end_percent": 0.4},
    }[kind]
    positive = [prompt(model, 6), prompt(model, 90, **more), prompt(model, 91, **more)]
    expected, mask = complete(family), noise(1, 16, 24, seed=30).sigmoid()
    picture = sample(expected, positive=positive, steps=4)
    assert relative(picture, sample(expected, steps=4)) > 1e-3, "it has no effect"
    assert relative(sample(ours(family), positive=positive, steps=4), picture) < TOLERANCE
    if kind != "area":  # masks of both say the same there
        picture = sample(complete(family, attn_mask=mask), positive=positive)
        mine = sample(ours(family, mask=mask), positive=positive)
        assert relative(mine, picture) < TOLERANCE


def test_cond_and_uncond_in_calls_of_their_own(family, monkeypatch):
    """As the host does when memory is short."""
    together = sample(ours(family))
    monkeypatch.setattr(type(model_of(family).model), "memory_required", lambda *a, **k: 1e30)
    assert relative(sample(ours(family)), together) < 1e-5


def test_a_users_choice_of_attention(family):
    """It counts in every layer, with our terms added to it and where we do nothing."""
    calls = []

    def override(func, q, k, v, heads, *args, **kwargs):
        calls.append(tuple(k.shape))
        return host_attention.attention_sub_quad(q, k, v, heads, *args, **kwargs)

    def overridden(model):
        clone = model.clone()
        clone.model_options["transformer_options"]["optimized_attention_override"] = override
        calls.clear()
        return sample(clone)

    plain = overridden(model_of(family))
    wanted = sorted(calls)
    assert relative(plain, plain_sample(family)) < TOLERANCE
    assert torch.equal(overridden(ours(family, start=1.0, end=1.0)), plain)
    assert sorted(calls) == wanted
    assert relative(overridden(ours(family)), sample(ours(family))) < TOLERANCE
    assert sorted(calls) == wanted


@reference_pack.needs_pack
def test_other_backends(family, monkeypatch):
    monkeypatch.setattr(host_attention, "optimized_attention", host_attention.attention_sub_quad)
    check(family, ours(family), complete(family))


def test_a_stack_of_patches_is_told_in_the_report(family):
    report = ap.report(ap.patch_model(ours(family), our_prompt(family, weight="style transfer")))
    assert len(report.matched) == {"sd1": 16, "sdxl": 70}[family]
    assert plain_sample(family) is plain_sample(family)
