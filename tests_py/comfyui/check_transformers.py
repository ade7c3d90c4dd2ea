# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Key gains in the host's transformers, against a dense bias in its own attention."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from narrow_models import noise
from narrow_transformers import CASES, GRID, TEXT, conditioning, make_transformer
from narrow_transformers import sample_transformer as sample
from real_host import comfy, relative

import attnpatch as ap
from attnpatch.patches import KeyGain, ReferenceKeys, TextKeys

REFERENCES = ((4, 2), (3, 6))
OVERRIDE = "optimized_attention_override"


def spans_of(case, references):
    spans, start = {}, 0
    for name, count in case.order(GRID, references):
        spans.setdefault(name, slice(start, start + count))
        start += count
    return spans, start


def dense(model, case, gains_of, references=()):
    """A clone whose attention has these gains: (factors of a row, spans, cond) changes them."""
    spans, total = spans_of(case, references)
    if case.over_text:
        count = GRID[0] * GRID[1]
        spans, queries, keys = {"image": slice(0, count), "text": slice(0, case.text)}, count, None
    else:
        queries = keys = total

    def override(func, q, k, v, heads, mask=None, skip_reshape=False, **options):
        told = options.get("transformer_options", {})
        given = q, k, v
        if not skip_reshape:
            q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in given)
        counts = q.shape[2], k.shape[2]
        joint = counts == (queries, keys) if keys else counts[0] == queries != counts[1]
        if not joint:
            return func(*given, heads, mask=mask, skip_reshape=skip_reshape, **options)
        chunks = told["cond_or_uncond"]
        factors = torch.ones(len(q), *counts)
        for row in range(len(q)):
            gains_of(factors[row], spans, chunks[row // (len(q) // len(chunks))] == 0)
        scores = q.double() @ k.double().transpose(2, 3) / math.sqrt(q.shape[3])
        scores = scores + factors.double()[:, None].log()
        if mask is not None:
            scores = scores + (mask if mask.ndim == 4 else mask[:, None])
        out = (scores.softmax(-1) @ v.double()).to(q.dtype)
        return out.transpose(1, 2).flatten(2)

    clone = model.clone()
    clone.model_options["transformer_options"][OVERRIDE] = override
    return clone


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_words_of_cond_rows(case, model, batch):
    def gains_of(factors, spans, cond):
        if cond:
            for word in case.words:
                factors[spans["image"], spans["text"].start + word] = 4.0

    plain = sample(model, case, batch=batch)
    patched = ap.patch_model(model, KeyGain(TextKeys(case.words), 4.0))
    found = sample(patched, case, batch=batch)
    right = sample(dense(model, case, gains_of), case, batch=batch)
    assert relative(found, right) < 1e-5
    assert relative(found, plain) > 1e-3
    assert torch.equal(sample(model, case, batch=batch), plain)
    off = ap.patch_model(model, KeyGain(TextKeys(case.words), 1.0))
    assert torch.equal(sample(off, case, batch=batch), plain)
    assert len(ap.report(patched).matched) == case.layers


def test_references_with_masks(case, model):
    if not case.references:
        with pytest.raises(ValueError, match="reference tokens in the call"):
            sample(ap.patch_model(model, KeyGain(ReferenceKeys(1), 3.0)), case)
        return
    mask = torch.rand(1, 10, 6, generator=torch.Generator().manual_seed(2))
    inside = F.interpolate(mask[None], size=GRID, mode="area").flatten()

    def gains_of(factors, spans, cond):
        factors[spans["image"], spans["reference 1"]] = (1 + inside * 2.0)[:, None]

    patch = KeyGain(ReferenceKeys(1), 3.0, mask=mask)
    found = sample(ap.patch_model(model, patch), case, references=REFERENCES)
    right = sample(dense(model, case, gains_of, REFERENCES), case, references=REFERENCES)
    plain = sample(model, case, references=REFERENCES)
    assert relative(found, right) < 1e-5
    assert relative(found, plain) > 1e-3


def test_a_window_ends(case, model):
    early = ap.patch_model(model, KeyGain(TextKeys(case.words), 5.0, end=0.2, uncond=True))
    whole = ap.patch_model(model, KeyGain(TextKeys(case.words), 5.0, uncond=True))
    results = [sample(m, case, steps=4) for m in (model, early, whole)]
    assert relative(results[1], results[0]) > 1e-4
    assert relative(results[1], results[2]) > 1e-4


def test_another_override_keeps_attending(case, model):
    calls = []

    def other(func, *args, **kwargs):
        calls.append(1)
        return func(*args, **kwargs)

    below = model.clone()
    below.model_options["transformer_options"][OVERRIDE] = other
    patch = KeyGain(TextKeys(case.words), 5.0)
    found = sample(ap.patch_model(below, patch), case)
    assert calls
    assert relative(found, sample(ap.patch_model(model, patch), case)) < 1e-4


def test_patches_of_unets_are_refused(case, model):
    with pytest.raises(TypeError, match="made for UNets"):
        ap.patch_model(model, ap.PerturbedAttentionGuidance())


@pytest.mark.parametrize("keys", ["reference", "words"])
def test_references_with_texts_and_features(keys):
    """Z-Image Omni: texts and features of references stand around the prompt, which is counted."""
    if not hasattr(comfy.supported_models, "ZImage"):
        pytest.skip("this ComfyUI has no ZImage")
    plain = CASES["z_image"]
    case = replace(plain, config={**plain.config, "siglip_feat_dim": 12})
    model, (text, more) = make_transformer(case), conditioning(case, 6, REFERENCES)
    features = noise(1, 6, 12, seed=3)
    seen = SimpleNamespace(image_sizes=[(3, 32, 48)], last_hidden_state=features)
    more["clip_vision_outputs"] = [seen]
    more["reference_latents_text_embeds"] = [noise(1, n, 24, seed=n) for n in (4, 33, 5)]
    # Texts of 4 and 33, the prompt, a text of 5; features of one reference; then the pictures.
    order = [("before", 32), ("before", 64), ("text", TEXT), ("padding", 25), ("after", 32)]
    order += [("features", 3 * 32), ("reference 0", 8), ("padding", 24), ("reference 1", 18)]
    order += [("padding", 14), ("image", 15), ("padding", 17)]

    def gains_of(factors, spans, cond):
        if cond and keys == "reference":
            factors[spans["image"], spans["reference 1"]] = 3.0
        elif cond:
            first = spans["text"].start
            factors[spans["image"], first + 1 : first + 3] = 3.0

    class Omni(type(case)):
        def order(self, grid, references=()):
            return order

    told = Omni(**vars(case))
    chosen = ReferenceKeys(1) if keys == "reference" else TextKeys((1, 2))
    patched = ap.patch_model(model, KeyGain(chosen, 3.0, uncond=False))
    options = {"positive": [text, more], "cfg": 1.0}
    found = sample(patched, case, **options)
    right = sample(dense(model, told, gains_of, REFERENCES), case, **options)
    assert relative(found, right) < 1e-5
    assert relative(found, sample(model, case, **options)) > 1e-3
