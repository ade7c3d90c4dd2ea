# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Wrappers of the model's function that cut a picture into tiles and join them in a call."""

import pytest
import torch
from comfyui_oracle import make_prompt
from protocol_sampling import make_comfy, make_conds, sample
from sampling_host import Sampler

import attnpatch as ap

SIZE = (16, 48)
HALF = torch.cat([torch.ones(16, 24), torch.zeros(16, 24)], 1)


def tiled(model, per_call=2, order=None, change=None):
    """Cut the picture into two tiles, and join so many of them in a call, in an order of rows."""
    clone = model.clone()

    def wrapper(function, args):
        x, t, c = args["input"], args["timestep"], args["c"]
        tiles, found = list(x.chunk(2, -1)), []
        for first in range(0, 2, per_call):
            part = tiles[first : first + per_call]
            rows = torch.cat(part) if change is None else change(torch.cat(part))
            n = len(part)
            each = {
                k: v.repeat(n, 1, 1) if isinstance(v, torch.Tensor) else v for k, v in c.items()
            }
            place = order if order and len(order) == len(rows) else list(range(len(rows)))
            each["c_crossattn"] = each["c_crossattn"][place]
            out = function(rows[place], t.repeat(n), **each)
            back = torch.empty_like(out)
            back[place] = out
            found += list(back.chunk(n))
        return torch.cat(found, -1)

    clone.model_options = {**clone.model_options, "model_function_wrapper": wrapper}
    return clone


def run(model, monkeypatch, **options):
    x, conds = make_conds(size=SIZE)
    return sample(tiled(model, **options), x, conds, sampler=Sampler(monkeypatch))


def close(found, expected, tolerance=5e-5):
    atol = tolerance * float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


PATCHES = {
    "prompt": lambda: make_prompt(weight=0.8),
    "mask": lambda: make_prompt(weight=0.8, mask=HALF),
    "SAG": lambda: ap.SelfAttentionGuidance(0.7),
    "PAG": lambda: ap.PerturbedAttentionGuidance(20.0),
    "fewer tokens": lambda: ap.TokenMerging(),
    "all": lambda: [make_prompt(weight=0.8, mask=HALF), ap.SelfAttentionGuidance(0.7)],
}


@pytest.mark.parametrize("order", [None, [0, 2, 1, 3], [3, 1, 2, 0]])
@pytest.mark.parametrize("name", PATCHES)
def test_tiles_in_one_call_or_in_calls_of_their_own(name, order, monkeypatch):
    model = ap.patch_model(make_comfy(), PATCHES[name]())
    alone = run(model, monkeypatch, per_call=1)
    together = run(model, monkeypatch, order=order)
    close(together, alone)
    plain = run(make_comfy(), monkeypatch)
    assert not torch.allclose(alone, plain, atol=1e-3)


def test_the_mask_of_a_tile_is_the_tiles(monkeypatch):
    model = make_comfy()
    found = run(ap.patch_model(model, make_prompt(weight=0.8, mask=HALF)), monkeypatch)
    plain = run(model, monkeypatch)
    close(found[..., 24:], plain[..., 24:])
    assert not torch.allclose(found[..., :24], plain[..., :24], atol=1e-3)


def test_the_recorded_attention_covers_the_whole_picture(monkeypatch):
    model = ap.patch_model(make_comfy(), ap.SelfAttentionGuidance(0.7))
    run(model, monkeypatch)
    seen = ap.recorded_attention(model)
    assert seen.shape == (1, *SIZE)
    assert not torch.allclose(seen[..., :24], seen[..., 24:])


def test_rows_that_nobody_can_tell_are_an_error_or_told(monkeypatch):
    def changed(rows):
        return rows + 0.5

    model = make_comfy()
    prompt = make_prompt(weight=0.8)
    with pytest.raises(ValueError, match="cond_or_uncond: expected rows that are cut out"):
        run(ap.patch_model(model, prompt), monkeypatch, change=changed)
    run(ap.patch_model(model, ap.TokenMerging()), monkeypatch, change=changed)
    seen = []

    def told(call):
        seen.append(call)
        return (1, 0) * (call.batch // 2)

    found = run(ap.patch_model(model, prompt, cond_or_uncond=told), monkeypatch, change=changed)
    assert {call.batch for call in seen} == {4}
    assert seen[0].encoder_hidden_states.shape[0] == 4 and "sigmas" in seen[0].options
    tiles = run(
        ap.patch_model(model, prompt, cond_or_uncond=lambda call: (1, 0)),
        monkeypatch,
        change=changed,
        per_call=1,
    )
    close(found, tiles)
    with pytest.raises(ValueError, match=r"cond_or_uncond: .*expected None or a callable"):
        ap.patch_model(model, prompt, cond_or_uncond=(1, 0))


def test_the_mask_of_an_area_is_the_areas(monkeypatch):
    """Conditionings that act on a part of the picture see that part of the mask."""
    model = make_comfy()
    x, (cond, uncond) = make_conds(size=SIZE)
    parts = [{**cond[0], "area": (16, 24, 0, left), "uuid": f"part {left}"} for left in (0, 24)]
    prompt = make_prompt(weight=0.8, mask=HALF, roles={1: "off"})
    sampler = Sampler(monkeypatch)
    found = sample(ap.patch_model(model, prompt), x, (parts, uncond), steps=1, sampler=sampler)
    plain = sample(model, x, (parts, uncond), steps=1, sampler=sampler)
    close(found[..., 24:], plain[..., 24:])
    assert not torch.allclose(found[..., :24], plain[..., :24], atol=1e-3)


def test_the_same_number_of_tokens_in_another_shape(monkeypatch):
    """A mask lands on the grid of the picture that is made now."""
    model = make_comfy()
    prompt = make_prompt(weight=0.8, mask=torch.eye(8))
    shared, found = ap.patch_model(model, prompt), {}
    for size in ((16, 24), (24, 16), (16, 24)):
        x, conds = make_conds(size=size)
        found[size] = sample(shared, x, conds, sampler=Sampler(monkeypatch))
        alone = sample(ap.patch_model(model, prompt), x, conds, sampler=Sampler(monkeypatch))
        close(found[size], alone)
