# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes for words with weights and for texts of regions."""

from types import SimpleNamespace

import pytest
import torch
from fake_text_encoders import LanguageEncoder, WordEncoder
from protocol_transformer import CONTEXT, make_transformer
from running import run

import attnpatch as ap
from attnpatch.patches import KeyGain, TextKeys

WORDS, REGION = "AttentionPatchesWordWeights", "AttentionPatchesRegionalPrompt"


def weigh(text, clip, model=None, **values):
    model = make_transformer() if model is None else model
    patched, conditioning = run(WORDS, model=model, clip=clip, text=text, **values)
    return ap.attached(patched), conditioning


def words_of(clip, patch, name, shift=0):
    """What the tokens of a gain are, as text."""
    entries = [entry for chunk in clip.tokenize(name)[clip.names[-1]] for entry in chunk]
    return "".join(clip.piece(entries[t - shift + clip.dropped][0]) for t in patch.keys.tokens)


@pytest.mark.parametrize("kind", [WordEncoder, LanguageEncoder])
def test_words_have_their_tokens(kind):
    clip = kind(CONTEXT, 32)
    patches, conditioning = weigh(
        "a (red:1.4) hat, a red (blur here:-0.5) (old:0)", clip, end_at=0.6
    )
    plain = "a red hat, a red blur here old"
    assert len(conditioning) == 1 and conditioning[0][0].shape[1] == 32 - clip.dropped
    found = [(p.gain, p.value_gain, p.end, p.rows) for p in patches]
    assert found == [(1.4, 1.0, 0.6, "all"), (0.5, -1.0, 0.6, "all"), (0.0, 1.0, 0.6, "all")]
    texts = [words_of(clip, patch, plain).replace(" ", "") for patch in patches]
    assert texts == ["red", "blurhere", "old"]
    first = patches[0].keys.tokens
    assert max(first) < min(patches[1].keys.tokens), "of the two equal words the one in parentheses"


@pytest.mark.parametrize("kind", [WordEncoder, LanguageEncoder])
def test_equal_words_next_to_each_other(kind):
    for place, prompt in enumerate(("(hat:2) hat", "hat (hat:2)")):
        clip = kind(CONTEXT, 16)
        (patch,), _ = weigh(prompt, clip)
        first = min(patch.keys.tokens)
        (other,), _ = weigh("(hat:2) hat", kind(CONTEXT, 16))
        assert (first > min(other.keys.tokens)) == bool(place)
        assert words_of(clip, patch, "hat hat").strip() == "hat"


def test_parentheses_that_are_characters():
    clip = LanguageEncoder(CONTEXT, 32)
    (patch,), _ = weigh(r"a \(big\) (dog:1.5)", clip)
    assert words_of(clip, patch, r"a \(big\) dog").strip() == "dog"


def test_a_long_prompt_has_words_in_later_chunks():
    clip = WordEncoder(CONTEXT, 8)
    (patch,), conditioning = weigh("a b c d e f g (last:1.2) h", clip)
    assert conditioning[0][0].shape[1] == 16
    assert patch.keys == TextKeys((8 + 1 + 1,))  # the second chunk: its start, "g", then the word


def test_where_the_host_pads_texts_in_front():
    """Klein's words stand behind the padding that its model adds."""
    model = make_transformer()
    model.model.diffusion_model.params = SimpleNamespace(txt_ids_dims=[3])
    clip = LanguageEncoder(CONTEXT, 20)
    (patch,), conditioning = weigh("a (red:1.4) hat", clip, model)
    shift = 512 - conditioning[0][0].shape[1]
    assert words_of(clip, patch, "a red hat", shift).strip() == "red"


def test_prompts_without_weights_change_nothing():
    model = make_transformer()
    patched, conditioning = run(WORDS, model=model, clip=WordEncoder(CONTEXT, 8), text="a hat")
    assert patched is model and len(conditioning) == 1
    with pytest.raises(ValueError, match=r"prompt: expected '\)' for each"):
        run(WORDS, model=model, clip=WordEncoder(CONTEXT, 8), text="a (hat")


def test_words_that_a_template_drops_are_an_error():
    clip = LanguageEncoder(CONTEXT, 12)
    clip.dropped = 6
    with pytest.raises(ValueError, match="prompt: expected tokens of 'a' in what the text encoder"):
        weigh("(a:2) hat", clip)


def text(tokens, seed, channels=CONTEXT, **more):
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(1, tokens, channels, generator=generator), more]]


def test_regions_join_texts():
    base, one, two = text(5, 1, pooled_output="kept"), text(3, 2), text(4, 3)
    left, right = torch.ones(1, 4, 4), torch.zeros(1, 4, 4)
    model, joined = run(
        REGION, model=make_transformer(), conditioning=base, region=one, mask=left, strength=2.0
    )
    model, joined = run(
        REGION, model=model, conditioning=joined, region=two, mask=right, end_at=0.5
    )
    assert torch.equal(joined[0][0], torch.cat([base[0][0], one[0][0], two[0][0]], dim=1))
    assert joined[0][1] == {"pooled_output": "kept"}
    expected = [
        KeyGain(TextKeys(range(5, 8)), 2.0, outside=0.0, mask=left),
        KeyGain(TextKeys(range(8, 12)), 1.0, outside=0.0, mask=right, end=0.5),
    ]
    assert ap.attached(model) == ap.PatchStack(expected)
    _, patches = ap.regional_prompts([(one[0][0], left)], base[0][0], strength=2.0)
    assert list(patches) == expected[:1]


def test_padding_of_texts_is_left_out_of_regions():
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    base = text(5, 1, attention_mask=mask)
    model, joined = run(
        REGION, model=make_transformer(), conditioning=base, region=text(2, 2),
        mask=torch.ones(1, 2, 2),
    )  # fmt: skip
    assert joined[0][0].shape[1] == 5 and "attention_mask" not in joined[0][1]
    (patch,) = ap.attached(model)
    assert patch.keys == TextKeys((3, 4))


def test_texts_that_do_not_fit_are_refused():
    values = {"model": make_transformer(), "mask": torch.ones(1, 2, 2)}
    with pytest.raises(ValueError, match="region: expected a text of 8 channels"):
        run(REGION, conditioning=text(5, 1), region=text(5, 1, channels=9), **values)
    with pytest.raises(ValueError, match="region: expected one conditioning, got 2"):
        run(REGION, conditioning=text(5, 1), region=text(5, 1) * 2, **values)
