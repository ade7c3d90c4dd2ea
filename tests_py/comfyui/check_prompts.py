# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Words of prompts by the real tokenizers, and regions in the real transformers."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from narrow_transformers import GRID, TEXT, conditioning, sample_transformer
from real_host import relative

import attnpatch as ap
from attnpatch.hosts.comfyui.prompts import add_region, weigh_words
from attnpatch.hosts.comfyui.text_tokens import encode_parts
from attnpatch.hosts.prompts import read_words

# By the module in comfy: the tokenizer, the encoder whose tokens the model is given, and how many
# of them are dropped in front, which is what its text encoder does.
TOKENIZERS = {
    "sd1": ("sd1_clip", "SD1Tokenizer", "l", 0),
    "sdxl": ("sdxl_clip", "SDXLTokenizer", "g", 0),
    "flux": ("text_encoders.flux", "FluxTokenizer", "t5xxl", 0),
    "klein": ("text_encoders.flux", "KleinTokenizer", "qwen3_4b", 0),
    "chroma": ("text_encoders.pixart_t5", "PixArtTokenizer", "t5xxl", 0),
    "qwen": ("text_encoders.qwen_image", "QwenImageTokenizer", "qwen25_7b", 34),
    "z_image": ("text_encoders.z_image", "ZImageTokenizer", "qwen3_4b", 0),
    "krea2": ("text_encoders.krea2", "Krea2Tokenizer", "qwen3vl_4b", 34),
    "anima": ("text_encoders.anima", "AnimaTokenizer", "t5xxl", 0),
    "sd3": ("text_encoders.sd3_clip", "SD3Tokenizer", "t5xxl", 0),
}


class Clip:
    """The host's tokenizer, with an encoder that gives as many tokens as the real one."""

    def __init__(self, tokenizer, name, dropped):
        self.tokenizer, self.name, self.dropped = tokenizer, name, dropped

    def tokenize(self, text):
        return self.tokenizer.tokenize_with_weights(text)

    def encode_from_tokens_scheduled(self, tokens):
        count = sum(map(len, tokens[self.name])) - self.dropped
        if {"g", "t5xxl"} <= tokens.keys():  # SD3 joins both
            count += sum(map(len, tokens["g"]))
        more = {"t5xxl_ids": torch.zeros(1)} if len(tokens) == 2 and "l" not in tokens else {}
        return [[torch.zeros(1, count, 8), more]]

    def words(self, tokens, places, text):
        """The text of these tokens of what the encoder gives."""
        first = 0
        if {"g", "t5xxl"} <= tokens.keys():
            first = sum(map(len, tokens["g"]))
        entries = [entry[0] for chunk in tokens[self.name] for entry in chunk]
        ids = [entries[p - first + self.dropped] for p in places if p >= first]
        own = getattr(self.tokenizer, f"clip_{self.name}", None)
        own = own or getattr(self.tokenizer, self.name, None)
        own = own or getattr(self.tokenizer, self.tokenizer.clip)
        return own.tokenizer.decode(ids) if hasattr(own.tokenizer, "decode") else None


@pytest.fixture(scope="module", params=list(TOKENIZERS))
def clip(request):
    module, kind, name, dropped = TOKENIZERS[request.param]
    try:
        tokenizer = getattr(import_module(f"comfy.{module}"), kind)
    except (ImportError, AttributeError):
        pytest.skip(f"this ComfyUI has no {kind}")
    return Clip(tokenizer(), name, dropped)


@pytest.mark.parametrize(
    "prompt",
    [
        "a (red:1.4) hat on a red table, (out of focus:-0.5)",
        "(red:1.4) red red, a photograph",
        "a photograph of red (red:1.4)",
        r"a \(small\) (dog:1.2), (Gänsefüßchen:0)",
        "(photograph:1.3)",
        "a (big :2)dog, (a (small:3) cat :0.5)",
    ],
)
def test_words_have_their_tokens(clip, prompt):
    text, parts = read_words(prompt)
    _, found = encode_parts(clip, text, parts)
    tokens = clip.tokenize(text.replace("(", r"\(").replace(")", r"\)"))
    for part, places in zip(parts, found, strict=True):
        assert places == sorted(set(places))
        seen = clip.words(tokens, places, text)
        if seen is not None:
            wanted = text[part.start : part.stop].lower()
            assert seen.lower().replace(" ", "").strip(" ,") == wanted.replace(" ", "")
    chosen = [place for places in found for place in places]
    assert len(chosen) == len(set(chosen))


def test_a_region_is_its_text_beside_the_other(case, model):
    """Texts joined by the node act as texts joined by hand, and the region ends at its mask."""
    if case.least_text:
        pytest.skip("texts are of one length here")
    base, region = conditioning(case, 6), conditioning(case, 7)
    left = torch.zeros(1, *GRID)
    left[:, :, 0] = 1
    patched, joined = add_region(model, [base], [region], left, strength=2.0)
    assert joined[0][0].shape[1] == 2 * TEXT
    found = sample_transformer(patched, case, positive=joined[0])
    whole = sample_transformer(model, case, positive=joined[0])
    alone = sample_transformer(model, case)
    assert relative(found, whole) > 1e-4
    assert relative(found, alone) > 1e-4
    if case.over_text:  # else the texts see each other
        nowhere, joined = add_region(model, [base], [region], 0 * left)
        assert relative(sample_transformer(nowhere, case, positive=joined[0]), alone) < 1e-5


def test_words_in_the_real_host(case, model):
    """A weight on a word is the gain on its tokens."""

    class Words:
        def tokenize(self, text):
            weighted = "(" in text
            return {"l": [[(i, 1.5 if weighted and i == 3 else 1.0) for i in range(TEXT)]]}

        def encode_from_tokens_scheduled(self, tokens):
            return [conditioning(case, 6)]

    patched, found = weigh_words(model, Words(), "a (red:4) hat")
    words = (case.text - TEXT + 3,)
    expected = ap.KeyGain(ap.TextKeys(words), 4.0, rows="all")
    assert ap.attached(patched) == ap.PatchStack(expected)
    one, other = (
        sample_transformer(m, case, positive=found[0])
        for m in (patched, ap.patch_model(model, expected))
    )
    assert torch.equal(one, other)
    assert relative(one, sample_transformer(model, case, positive=found[0])) > 1e-4
