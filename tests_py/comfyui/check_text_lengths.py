# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Texts of unlike lengths in the real ComfyUI, which repeats them in UNets to run them together."""

from __future__ import annotations

import contextlib
import math

import pytest
import torch
from narrow_models import make_model, noise, prompt
from real_host import comfy, relative, sample
from side_by_side import our_prompt

import attnpatch as ap

WORDS, GAIN = (2, 60), 6.0


def text(model, tokens, seed):
    """One conditioning entry of so many tokens."""
    entry = prompt(model, seed)
    return [noise(1, tokens, entry[0].shape[2], seed=seed), entry[1]]


@contextlib.contextmanager
def batching(together):
    """Run cond and uncond in one call, as the host does where there is memory, or not."""
    original = comfy.conds.CONDCrossAttn.can_concat
    if not together:
        comfy.conds.CONDCrossAttn.can_concat = lambda self, other: False
    try:
        yield
    finally:
        comfy.conds.CONDCrossAttn.can_concat = original


@contextlib.contextmanager
def dense(own, tokens):
    """Add the words' gains to the scores of all cross-attention, at each copy in rows of cond.

    Yields for each such call how many tokens its text had.
    """
    seen = []
    original = torch.nn.functional.scaled_dot_product_attention
    bias = torch.zeros(tokens)
    for word in WORDS:
        bias[word::own] = math.log(GAIN)

    def attend(q, k, v, attn_mask=None, **options):
        if k.shape[2] != tokens or len(q) % 2:
            return original(q, k, v, attn_mask=attn_mask, **options)
        seen.append(k.shape[2])
        every = torch.zeros(len(q), 1, q.shape[2], tokens)
        every[len(q) // 2 :] = bias  # uncond first
        return original(q, k, v, attn_mask=every, **options)

    torch.nn.functional.scaled_dot_product_attention = attend
    try:
        yield seen
    finally:
        torch.nn.functional.scaled_dot_product_attention = original


@pytest.mark.parametrize(
    ("family", "cond", "uncond"),
    [("sd1", 77, 154), ("sd1", 77, 231), ("sd1", 154, 231), ("sd1", 154, 77), ("sdxl", 77, 231)],
)
def test_a_gain_meets_every_copy(family, cond, uncond):
    model = make_model(family)
    texts = {"positive": [text(model, cond, 6)], "negative": [text(model, uncond, 8)]}
    patched = ap.patch_model(model, ap.KeyGain(ap.TextKeys(WORDS), GAIN))
    options = {"batch": 2 if family == "sd1" else 1, **texts}
    found = sample(patched, **options)
    with dense(cond, math.lcm(cond, uncond)) as seen:
        right = sample(model, **options)
    assert seen, "the host did not run them together"
    assert relative(found, right) < 1e-5
    assert relative(found, sample(model, **options)) > 1e-3
    with batching(together=False):
        assert relative(found, sample(patched, **options)) < 1e-5


@pytest.mark.parametrize("kind", ["its own softmax", "the text's softmax", "negative", "region"])
def test_nothing_depends_on_the_uncond_beside(kind):
    """One call for both, and one for each, are the same picture."""
    model = make_model("sd1")
    texts = {"positive": [text(model, 154, 6)], "negative": [text(model, 231, 8)]}
    mask = torch.zeros(8, 12)
    mask[:, :6] = 1
    patch = {
        "its own softmax": lambda: our_prompt("sd1"),
        "the text's softmax": lambda: our_prompt("sd1", shared_softmax=True),
        "negative": lambda: ap.NormalizedAttentionGuidance(
            2.0 * noise(1, 77, 768, seed=3), scale=8.0, alpha=0.9
        ),
        "region": lambda: ap.KeyGain(ap.TextKeys(range(77, 154)), outside=0.0, mask=mask),
    }[kind]()
    patched = ap.patch_model(model, patch)
    found = sample(patched, **texts)
    assert relative(found, sample(model, **texts)) > 1e-3
    with batching(together=False):
        assert relative(found, sample(patched, **texts)) < 1e-5
