# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Normalized attention guidance in the host's transformers, against its formula on doubled rows.

The oracle wraps the model's function: it gives the network a row more for each cond row, with the
negative text, and attends densely in float64, with padding masked and all but the text guided.
In Z-Image it moves the positions, from which the model makes its turns.
"""

from __future__ import annotations

import contextlib
import math

import pytest
import torch
import torch.nn.functional as F
from narrow_models import noise
from narrow_transformers import (
    CASES,
    TEXT,
    conditioning,
    make_transformer,
    sample_transformer,
)
from real_host import comfy, relative

import attnpatch as ap
from attnpatch.patches import KeyGain, TextKeys

GRID = (7, 5)  # of more tokens than the text has, padded too
WHOLE = (12, 8)  # not padded in Z-Image
SCALE, TAU, ALPHA = 4.0, 2.0, 0.4
OVERRIDE = "optimized_attention_override"


def sample(model, case, **options):
    return sample_transformer(model, case, grid=GRID, **options)


def negative_of(case, tokens=TEXT, images=1):
    return noise(images, tokens, case.context, seed=21)


def patch(negative, scale=SCALE, **options):
    return ap.NormalizedAttentionGuidance(negative, scale, TAU, ALPHA, **options)


def placed(text, length, case, front):
    """A text of (tokens, channels), padded to a length, and which of its tokens are its own."""
    text = F.pad(text, (0, 0, max(0, case.least_text - len(text)), 0))
    missing = length - len(text)
    own = torch.ones(len(text), dtype=torch.bool)
    sides = (missing, 0) if front else (0, missing)
    return F.pad(text, (0, 0, *sides)), F.pad(own, sides)


def doubled(case, given, batch, rows, negative):
    """What the model is called with beside latents on doubled rows, and each text's own tokens."""
    front = case.model in ("ZImage", "Lumina2")
    made = {}
    for name, value in given.items():
        if isinstance(value, torch.Tensor) and value.dim() and len(value) == batch:
            value = torch.cat([value, value[rows]])
        elif isinstance(value, list):
            value = [torch.cat([v, v[rows]]) if len(v) == batch else v for v in value]
        elif name == "control" and value:
            value = {k: [torch.cat([v, v[rows]]) for v in many] for k, many in value.items()}
        made[name] = value
    text = given["c_crossattn"]
    of_rows = negative.expand(len(text) // batch * len(rows), -1, -1)
    longest = max(text.shape[1], max(of_rows.shape[1], case.least_text))
    length = text.shape[1] + -(-(longest - text.shape[1]) // case.padded) * case.padded
    pairs = [placed(one, length, case, front) for one in (*text, *of_rows)]
    made["c_crossattn"] = torch.stack([one for one, _ in pairs])
    if "num_tokens" in made:
        made["num_tokens"] = length
    return made, torch.stack([own for _, own in pairs])


@contextlib.contextmanager
def staying(network, case, references, distance):
    """What does not follow the text, at positions as far on as the text is longer.

    What follows stands after the references, of which each has a text and a place of its own.
    """
    if case.model != "ZImage":
        yield
        return
    embed = network.rope_embedder
    before = len(references) * (case.padded + 2)

    def forward(positions):
        first = positions[..., 0]
        moved = torch.where(first <= before, first + distance, first)
        return type(embed).forward(embed, torch.cat([moved[..., None], positions[..., 1:]], -1))

    embed.forward = forward
    try:
        yield
    finally:
        del embed.forward


def plainly(model, case, negative, references=()):
    """A clone that does it on doubled rows."""
    clone = model.clone()
    count = GRID[0] * GRID[1]
    # Texts that are padding alone, of references that stand before the image.
    before = case.padded * len(references) * case.references_first
    sizes = {}

    def attend(q, k, v, own):
        scores = q.double() @ k.double().transpose(2, 3) / math.sqrt(q.shape[3])
        if own is not None:
            scores = scores.masked_fill(~own[:, None, None], -torch.inf)
        return scores.softmax(-1) @ v.double()

    def override(func, q, k, v, heads, mask=None, skip_reshape=False, **options):
        if not sizes:
            return func(q, k, v, heads, mask=mask, skip_reshape=skip_reshape, **options)
        given = q, k, v
        if not skip_reshape:
            q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in given)
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        counts, text, beside = (q.shape[2], k.shape[2]), sizes["text"], sizes["beside"]
        own, rows = F.pad(sizes["own"], (before, 0), value=True), sizes["pairs"]
        if len(q) == len(own) and counts == (text, text):  # a refiner of the text
            out = attend(q, k, v, F.pad(own, (0, text - own.shape[1]), value=True))
        elif counts == ((count, text) if case.over_text else (text + beside, text + beside)):
            out = attend(q, k, v, F.pad(own, (0, counts[1] - own.shape[1]), value=True))
            at = slice(0 if case.over_text else text, None)
            for plus, minus in rows:
                z, other = out[plus, :, at], out[minus, :, at]
                away = SCALE * z - (SCALE - 1) * other
                ratio = away.abs().sum((0, 2)) / z.abs().sum((0, 2))
                away = away * (ratio.clamp(max=TAU) / ratio)[:, None]
                out[plus, :, at] = out[minus, :, at] = ALPHA * away + (1 - ALPHA) * z
        else:
            return func(*given, heads, mask=mask, skip_reshape=skip_reshape, **options)
        return out.to(q.dtype).transpose(1, 2).flatten(2)

    def wrapper(apply, args):
        x, t, kinds = args["input"], args["timestep"], args["cond_or_uncond"]
        each = len(x) // len(kinds)
        rows = [row for row in range(len(x)) if kinds[row // each] == 0]
        made, own = doubled(case, args["c"], len(x), rows, negative)
        text = own.shape[1]
        pictures = [count, *(h * w for h, w in references)]
        sizes.update(
            own=own,
            text=before + -(-text // case.padded) * case.padded,
            beside=sum(-(-n // case.padded) * case.padded for n in pictures),
            pairs=[(row, len(x) + place) for place, row in enumerate(rows)],
        )
        longer = text - args["c"]["c_crossattn"].shape[1]
        try:
            with staying(model.model.diffusion_model, case, references, longer):
                return apply(torch.cat([x, x[rows]]), torch.cat([t, t[rows]]), **made)[: len(x)]
        finally:
            sizes.clear()

    clone.set_model_unet_function_wrapper(wrapper)
    clone.model_options["transformer_options"][OVERRIDE] = override
    return clone


@pytest.mark.parametrize("tokens", [TEXT, 3, 40], ids=["same length", "shorter", "longer"])
@pytest.mark.parametrize(("batch", "cfg"), [(1, 1.0), (2, 3.0), (3, 1.0)])
def test_it_is_the_formula(case, model, batch, cfg, tokens):
    references = ((4, 2), (3, 6)) if case.references and batch == 2 else ()
    negative, options = negative_of(case, tokens), {"batch": batch, "cfg": cfg}
    options["references"] = references
    plain = sample(model, case, **options)
    right = sample(plainly(model, case, negative, references), case, **options)
    found = sample(ap.patch_model(model, patch(negative)), case, **options)
    assert relative(right, plain) > 1e-3, "it has no effect"
    assert relative(found, right) < 1e-5
    assert torch.equal(sample(model, case, **options), plain)


@pytest.mark.parametrize("tokens", [3, 40])
@pytest.mark.parametrize("grid", [GRID, WHOLE], ids=["padded", "whole"])
def test_padding_leaves_the_prompt_alone(case, model, grid, tokens):
    """At next to no guidance the result is the plain one, however long the negative is."""
    almost = ap.patch_model(model, patch(negative_of(case, tokens), scale=1.0 + 1e-6))
    found, plain = (sample_transformer(m, case, grid=grid) for m in (almost, model))
    assert relative(found, plain) < 1e-5


def test_off_and_windows(case, model):
    negative = negative_of(case)
    plain = sample(model, case, steps=4)
    off = ap.patch_model(model, patch(negative, scale=1.0))
    assert torch.equal(sample(off, case, steps=4), plain)
    early, whole = (
        sample(ap.patch_model(model, patch(negative, end=end)), case, steps=4) for end in (0.2, 1)
    )
    assert relative(early, plain) > 1e-4
    assert relative(early, whole) > 1e-4


def test_a_mask_takes_padding_out(case, model):
    """Tokens that are not the negative's own are as if they were not there."""
    if case.least_text or case.over_text:
        pytest.skip("texts are of one length here")
    negative = negative_of(case)
    own = torch.ones(TEXT, dtype=torch.bool)
    own[5:] = False
    masked = ap.patch_model(model, patch(negative, attention_mask=own))
    cut = ap.patch_model(model, patch(negative[:, :5]))
    assert relative(sample(masked, case), sample(cut, case)) < 1e-6


def test_one_negative_for_each_image(case, model):
    negatives = negative_of(case, 3, images=2)
    both = sample(ap.patch_model(model, patch(negatives)), case, batch=2)
    for place in range(2):
        one = sample(ap.patch_model(model, patch(negatives[place])), case, batch=2)
        assert relative(both[place], one[place]) < 1e-5


def test_words_of_the_prompt_beside_it(case, model):
    """A longer negative moves the prompt's words in the sequence, not the gain off them."""
    if case.least_text:
        pytest.skip("texts are of one length here")
    gain = KeyGain(TextKeys(case.words), 5.0)
    almost = [patch(negative_of(case, 40), scale=1.0 + 1e-6), gain]
    alone, both = (
        sample_transformer(ap.patch_model(model, these), case, grid=WHOLE)
        for these in (gain, almost)
    )
    assert relative(alone, sample_transformer(model, case, grid=WHOLE)) > 1e-3
    assert relative(both, alone) < 1e-4


@pytest.mark.parametrize("tokens", [3, 40], ids=["shorter", "longer"])
@pytest.mark.parametrize("grid", [GRID, WHOLE], ids=["padded", "whole"])
def test_references_before_the_image(grid, tokens):
    """Z-Image: a negative of any length leaves the references and the prompt alone."""
    if not hasattr(comfy.supported_models, "ZImage"):
        pytest.skip("this ComfyUI has no ZImage")
    case = CASES["z_image"]
    model = make_transformer(case)
    options = {"grid": grid, "references": ((4, 8), (3, 4))}
    plain = sample_transformer(model, case, **options)
    negative = negative_of(case, tokens)
    almost = ap.patch_model(model, patch(negative, scale=1.0 + 1e-6))
    assert relative(sample_transformer(almost, case, **options), plain) < 1e-5
    found = sample_transformer(ap.patch_model(model, patch(negative)), case, **options)
    assert relative(found, plain) > 1e-3


def test_negatives_of_other_models_are_refused(case, model):
    wrong = patch(noise(1, 4, case.context + 1, seed=3))
    with pytest.raises(ValueError, match=f"negative: expected text embeddings of {case.context} c"):
        sample(ap.patch_model(model, wrong), case)


def test_conditionings_of_regions(case, model):
    """With an area every row is cond of a part of the latent: the negative goes with each."""
    if case.frames:
        pytest.skip("areas are for latents of one picture")
    tokens, options = conditioning(case, 6)
    part = [tokens, {**options, "area": (GRID[0] // 2 * case.patch, 5 * case.patch, 0, 0)}]
    found = sample(ap.patch_model(model, patch(negative_of(case, 3))), case, positive=part)
    assert relative(found, sample(model, case, positive=part)) > 1e-4
