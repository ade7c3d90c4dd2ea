# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Normalized attention guidance in the small ComfyUI, against the authors' formula in its slots."""

import sys
from types import SimpleNamespace

import pytest
import torch
from comfyui_oracle import make_prompt, relative
from protocol_sampling import make_comfy, make_conds, sample
from protocol_unet import SD1, SDXL, attention, optimized_attention
from reference_nag import guided
from sampling_host import Sampler

import attnpatch as ap
from attnpatch import NormalizedAttentionGuidance

KEY = ("input", 4, 0)


def texts(images=1, tokens=5, seed=0):
    generator = torch.Generator().manual_seed(50 + seed)
    return torch.randn(images, tokens, SD1.context_dim, generator=generator)


def plainly(model, negative, structure=SD1, *, start=0.0, end=1.0, base=None, **numbers):
    """Return a clone that does it in the host's own slots, beside each layer's own projections."""
    clone = model.clone()
    sampling = model.model.model_sampling
    low, high = sampling.percent_to_sigma(end), sampling.percent_to_sigma(start)
    unet = model.model.diffusion_model
    blocks = {"input": unet.input_blocks, "middle": [unet.middle_block]}
    blocks["output"] = unet.output_blocks

    def make(layer):
        def replace(q, k, v, options):
            heads, chunks = options["n_heads"], options["cond_or_uncond"]
            out = attention(q, k, v, heads)
            if not low <= float(options["sigmas"][0]) <= high:
                return out
            rows = len(q) // len(chunks)
            found = []
            for row, plus in enumerate(out):
                if chunks[row // rows] == 0:
                    text = negative[row % rows if len(negative) > 1 else 0][None]
                    minus = attention(q[row][None], layer.to_k(text), layer.to_v(text), heads)
                    plus = guided(plus, minus[0], **numbers)
                found.append(plus)
            return torch.stack(found) + (0.0 if base is None else base(q, k, v, options) - out)

        return replace

    for (block, number, index), _, _ in structure.sites():
        transformer = next(m for m in blocks[block][number] if hasattr(m, "transformer_blocks"))
        layer = transformer.transformer_blocks[index].attn2
        clone.set_model_attn2_replace(make(layer), block, number, index)
    return clone


def patched(model, negative, **options):
    return ap.patch_model(model, NormalizedAttentionGuidance(negative, **options))


@pytest.mark.parametrize("chunks", [1, 8])
@pytest.mark.parametrize("first", [0, 1])
def test_equals_the_authors_formula_whatever_the_batch(chunks, first):
    """Cond and uncond in calls of their own, or in one, in either order."""
    model, negative = make_comfy(), texts(2)
    x, conds = make_conds(batch=2)
    numbers = {"scale": 6.0, "tau": 1.3, "alpha": 0.8}
    options = {"sampler": Sampler(chunks=chunks, first=first)}
    right = sample(plainly(model, negative, **numbers), x, conds, **options)
    found = sample(patched(model, negative, **numbers), x, conds, **options)
    assert relative(found, right) < 1e-5
    assert relative(found, sample(model, x, conds)) > 1e-3


def test_sdxl_without_uncond_and_in_a_window():
    model, negative = make_comfy(SDXL), texts()
    x, (cond, _) = make_conds(SDXL)
    options = {"start": 0.3, "end": 0.8}
    right = sample(plainly(model, negative, SDXL, **options), x, (cond, None), steps=3, scale=1.0)
    ours = patched(model, negative, **options)
    found = sample(ours, x, (cond, None), steps=3, scale=1.0)
    assert relative(found, right) < 1e-5
    plain = sample(model, x, (cond, None), steps=3, scale=1.0)
    assert relative(found, plain) > 1e-4
    assert torch.equal(sample(model, x, (cond, None), steps=3, scale=1.0), plain)


def test_scale_one_changes_nothing():
    model = make_comfy()
    x, conds = make_conds()
    off = patched(model, texts(), scale=1.0)
    assert torch.equal(sample(off, x, conds), sample(model, x, conds))


def foreign(q, k, v, options):
    """A patch of another pack: the host's attention to the text, and something of its own."""
    assert k.shape[1] == 7, "the text alone"
    return attention(q, k, v, options["n_heads"]) + q


@pytest.mark.parametrize("key", [KEY, KEY[:2]], ids=["layer", "block"])
def test_what_another_packs_slot_adds_stays(key):
    """It is given the text alone, before ours and after ours."""
    model, negative = make_comfy(), texts()
    x, conds = make_conds()
    right = plainly(model, negative)
    alone = plainly(model, negative, base=foreign).slots()[KEY]
    right.set_model_attn2_replace(alone, *KEY)
    before = model.clone()
    before.set_model_attn2_replace(foreign, *key)
    found = sample(patched(before, negative), x, conds)
    assert relative(found, sample(right, x, conds)) < 1e-5
    after = patched(model, negative).clone()
    after.set_model_attn2_replace(foreign, *key)
    if len(key) == 2:
        assert relative(sample(after, x, conds), found) < 1e-6
    else:  # a layer's own slot is the later one's alone, and gets the text alone
        right.set_model_attn2_replace(foreign, *key)
        assert relative(sample(after, x, conds), sample(right, x, conds)) < 1e-5


def double(n, context, value, options):
    """An attn2_patch of another pack: it counts on the text's tokens."""
    assert context.shape[1] == 7
    return n, 2.0 * context, value


def test_other_patches_of_the_text_see_the_text_alone():
    model, negative = make_comfy(), texts()
    x, conds = make_conds()
    before = model.clone()
    before.set_model_patch(double, "attn2_patch")
    right = sample(plainly(before, negative), x, conds)
    assert relative(sample(patched(before, negative), x, conds), right) < 1e-5
    after = patched(model, negative).clone()
    after.set_model_patch(double, "attn2_patch")
    assert relative(sample(after, x, conds), right) < 1e-5


def test_the_attention_that_a_user_chose_stays(monkeypatch):
    module = SimpleNamespace(optimized_attention=optimized_attention)
    monkeypatch.setitem(sys.modules, "comfy.ldm.modules.attention", module)
    model, negative = make_comfy(), texts()
    x, conds = make_conds()
    calls = []

    def override(function, q, k, v, heads):
        calls.append(k.shape[1])
        return function(q, k, v, heads)

    told = {"optimized_attention_override": override}
    found = sample(patched(model, negative), x, conds, **told)
    assert relative(found, sample(plainly(model, negative), x, conds)) < 1e-5
    assert 7 in calls and 12 not in calls


@pytest.mark.parametrize("shared", [False, True])
def test_beside_an_image_prompt_and_in_any_order(shared):
    model, negative = make_comfy(), texts()
    x, conds = make_conds()
    guide, prompt = NormalizedAttentionGuidance(negative), make_prompt(shared_softmax=shared)
    both = sample(ap.patch_model(model, [prompt, guide]), x, conds)
    one_by_one = ap.patch_model(ap.patch_model(model, guide), prompt)
    assert relative(sample(one_by_one, x, conds), both) < 1e-6
    for stack in ([prompt], [guide]):
        assert relative(sample(ap.patch_model(model, stack), x, conds), both) > 1e-4
    assert relative(both, sample(ap.patch_model(model, [prompt, guide]), x, conds)) == 0


def test_text_of_other_channels_is_refused():
    with pytest.raises(ValueError, match="of 24 channels, as this UNet's text has, got 9"):
        patched(make_comfy(), torch.zeros(5, 9))
