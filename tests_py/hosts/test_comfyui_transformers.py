# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Key gains in a transformer that calls its attention as ComfyUI's do."""

import copy

import pytest
import torch
import torch.nn.functional as F
from protocol_sampling import make_comfy
from protocol_transformer import CONTEXT, call, gained, make_transformer

import attnpatch as ap
from attnpatch.patches import KeyGain, ReferenceKeys, TextKeys

TEXT, IMAGE, REFERENCES = 5, 12, (6, 4)


def rand(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def inputs():
    x = rand(2, 4, 6, 8, seed=1)
    contexts = {kind: rand(2, TEXT, CONTEXT, seed=kind + 2) for kind in (0, 1)}
    references = [rand(1, 4, 4, 6, seed=4), rand(1, 4, 4, 4, seed=5)]
    return x, contexts, (1, 0), references


def ones(inputs):
    tokens = TEXT + IMAGE + sum(REFERENCES)
    return torch.ones(4, tokens, tokens)


def test_words_of_cond_rows(inputs):
    model = make_transformer()
    gains = ones(inputs)
    gains[2:, TEXT : TEXT + IMAGE, 3] = 4.0
    patched = ap.patch_model(model, KeyGain(TextKeys((3,)), 4.0))
    found = call(patched, *inputs)
    torch.testing.assert_close(found, gained(model, *inputs, gains), rtol=1e-5, atol=1e-5)
    plain = call(model, *inputs)
    torch.testing.assert_close(found[:2], plain[:2], rtol=1e-6, atol=1e-6)
    assert not torch.allclose(found[2:], plain[2:], atol=1e-4)


def test_a_reference_and_another_patch_after(inputs):
    model = make_transformer()
    gains = ones(inputs)
    first = TEXT + IMAGE + REFERENCES[0]
    gains[:, TEXT : TEXT + IMAGE, first : first + REFERENCES[1]] = 0.25
    gains[2:, TEXT : TEXT + IMAGE, 0] = 3.0
    once = ap.patch_model(model, ap.reference_strength(0.25, 1))
    twice = ap.patch_model(once, KeyGain(TextKeys((0,)), 3.0))
    assert len(ap.attached(twice)) == 2 and len(ap.attached(once)) == 1
    found = call(twice, *inputs)
    torch.testing.assert_close(found, gained(model, *inputs, gains), rtol=1e-5, atol=1e-5)
    assert torch.equal(call(copy.copy(twice).clone(), *inputs), found)


def test_report_says_what_is_there(inputs):
    patched = ap.patch_model(make_transformer(), KeyGain(ReferenceKeys(0), 2.0))
    text = str(ap.report(patched))
    assert "3 of 3 layers patched" in text and "text, image, reference" in text
    x, contexts, chunks, _ = inputs
    with pytest.raises(ValueError, match="expected reference tokens in the call of the Flux"):
        call(patched, x, contexts, chunks)


def test_layers_by_blocks(inputs):
    patch = KeyGain(TextKeys((0,)), 9.0, weight={"single": 1.0})
    patched = ap.patch_model(make_transformer(), patch)
    assert [layer.name for layer in ap.report(patched).matched] == ["single_blocks.0"]


def test_an_override_that_is_replaced_is_found_out(inputs):
    """Another pack that puts its own over ours would make us do nothing."""
    patched = ap.patch_model(make_transformer(), KeyGain(TextKeys((0,)), 9.0))
    options = patched.model_options["transformer_options"]
    options["optimized_attention_override"] = lambda func, *args, **kwargs: func(*args, **kwargs)
    with pytest.raises(RuntimeError, match="none of its 3 layers asked the attention override"):
        call(patched, *inputs)


def test_blocks_that_drop_tokens_are_found_out(inputs):
    model = make_transformer()
    patched = ap.patch_model(model, KeyGain(TextKeys((0,)), 9.0))
    original = model.model.diffusion_model.single_blocks[0].forward
    model.model.diffusion_model.single_blocks[0].forward = lambda x, options: original(
        x[:, :-1], options
    )
    with pytest.raises(ValueError, match=r"expected 27 tokens at single_blocks\.0"):
        call(patched, *inputs)


def test_networks_that_are_not_known():
    unet = make_comfy()
    with pytest.raises(ValueError, match="keys: expected a model that is given references"):
        ap.patch_model(unet, KeyGain(ReferenceKeys(0), 2.0))
    other = make_transformer()
    type_of_other = type("Other", (torch.nn.Module,), {"__module__": "comfy.ldm.other.model"})
    other.model.diffusion_model = type_of_other()
    with pytest.raises(TypeError, match=r"a transformer of Anima, Chroma, Flux.*that is a Other"):
        ap.patch_model(other, KeyGain(TextKeys(), 2.0))


def guided_on_doubled_rows(model, inputs, negative, kinds, scale=4.0, tau=2.0, alpha=0.4):
    """The formula of normalized attention guidance, on a row more for each cond row."""
    x, contexts, chunks, references = inputs
    rows = [row for row, kind in enumerate(kinds) if kind == 0]
    length = max(TEXT, negative.shape[1])
    given = torch.cat([contexts[chunk] for chunk in chunks])
    texts = [*given, *negative.expand(len(rows), -1, -1)]
    own = torch.stack([torch.arange(length) < len(text) for text in texts])
    context = torch.stack([F.pad(text, (0, 0, 0, length - len(text))) for text in texts])
    latents = torch.cat([x] * len(chunks))
    original = F.scaled_dot_product_attention

    def attend(q, k, v):
        scores = q.double() @ k.double().transpose(2, 3) / q.shape[3] ** 0.5
        scores[..., :length].masked_fill_(~own[:, None, None], -torch.inf)
        out = scores.softmax(-1) @ v.double()
        for place, row in enumerate(rows):
            plus, minus = (out[at, :, length:] for at in (row, len(given) + place))
            away = scale * plus - (scale - 1) * minus
            ratio = away.abs().sum((0, 2)) / plus.abs().sum((0, 2))
            away = away * (ratio.clamp(max=tau) / ratio)[:, None]
            both = alpha * away + (1 - alpha) * plus
            out[row, :, length:] = out[len(given) + place, :, length:] = both
        return out.to(q.dtype)

    F.scaled_dot_product_attention = attend
    try:
        with torch.inference_mode():
            network = model.model.diffusion_model
            every = torch.cat([latents, latents[rows]])
            return network(every, torch.ones(len(every)), context, ref_latents=references)[:4]
    finally:
        F.scaled_dot_product_attention = original


@pytest.mark.parametrize("tokens", [TEXT, 2, 9])
def test_normalized_attention_guidance_is_its_formula(inputs, tokens):
    """With negatives as long as the prompt, shorter and longer."""
    model, negative = make_transformer(), rand(1, tokens, CONTEXT, seed=8)
    guidance = ap.NormalizedAttentionGuidance(negative, 4.0, 2.0, 0.4)
    found = call(ap.patch_model(model, guidance), *inputs)
    right = guided_on_doubled_rows(model, inputs, negative, (1, 1, 0, 0))
    torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)
    plain = call(model, *inputs)
    torch.testing.assert_close(found[:2], plain[:2], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found[2:], plain[2:], atol=1e-4)


def test_other_packs_see_the_rows_that_a_negative_adds(inputs):
    """An override below ours finds as many kinds of rows as there are chunks."""
    seen = []

    def below(func, q, *args, **kwargs):
        options = kwargs["transformer_options"]
        seen.append((len(q), tuple(options["cond_or_uncond"])))
        return func(q, *args, **kwargs)

    model = make_transformer()
    model.model_options["transformer_options"]["optimized_attention_override"] = below
    guidance = ap.NormalizedAttentionGuidance(rand(1, TEXT, CONTEXT, seed=8))
    call(ap.patch_model(model, guidance), *inputs)
    assert seen == [(6, (1, 0, 1))] * 3


def test_negatives_of_other_channels_are_refused(inputs):
    guidance = ap.NormalizedAttentionGuidance(rand(1, TEXT, CONTEXT + 1, seed=8))
    with pytest.raises(ValueError, match="negative: expected text embeddings of 8 channels"):
        call(ap.patch_model(make_transformer(), guidance), *inputs)
