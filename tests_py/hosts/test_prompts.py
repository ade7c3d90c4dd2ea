# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Weights of words, prompts of regions and strengths of references, in one call each."""

import inspect

import diffusers
import pytest
import torch
import torch.nn.functional as F
import transformers
from dense_bias import dense
from diffusers_models import make_unet, unet_inputs
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformer_models import CASES, GRID
from transformer_pipelines import SIZE, make

import attnpatch as ap
from attnpatch.hosts.diffusers import token_positions
from attnpatch.hosts.diffusers.token_positions import encode_text
from attnpatch.patches import KeyGain, ReferenceKeys, TextKeys
from attnpatch.patches.key_gain import read_weights

pytestmark = pytest.mark.filterwarnings("ignore:`FluxPosEmbed`:FutureWarning")

WORDS = "a red hat , blur on the cat <s> </s> <pad> user assistant describe : <|start|> <|end|>"
TEXT = "a red hat , blur"


def make_tokenizer(length=12, begins=True):
    """A tokenizer of whole words: <s>, the words, </s>, padding."""
    vocabulary = {word: place for place, word in enumerate(["<unk>", *WORDS.split()])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    first, last = ("<s>", vocabulary["<s>"]), ("</s>", vocabulary["</s>"])
    single = "<s> $A </s>" if begins else "$A </s>"
    made.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[first, last] if begins else [last]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=length,
    )


def make_clip(kind, width, projection=10):
    config = transformers.CLIPTextConfig(
        vocab_size=32,
        hidden_size=width,
        intermediate_size=16,
        projection_dim=projection,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        eos_token_id=11,
    )
    return kind(config).eval()


def make_t5():
    config = transformers.T5Config(
        vocab_size=32, d_model=12, d_kv=6, d_ff=16, num_layers=1, num_heads=2
    )
    return transformers.T5EncoderModel(config).eval()


def flux():
    model = CASES["FluxTransformer2DModel"].make()
    pipeline = make(diffusers.FluxPipeline, model, absent=("text_encoder_2", "tokenizer_2"))
    pipeline.register_modules(
        text_encoder=make_clip(transformers.CLIPTextModel, 10),
        tokenizer=make_tokenizer(77),
        text_encoder_2=make_t5(),
        tokenizer_2=make_tokenizer(512, begins=False),
    )
    return pipeline


def sd3():
    names = ("text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")
    model = CASES["SD3Transformer2DModel"].make()
    pipeline = make(diffusers.StableDiffusion3Pipeline, model, absent=names)
    clip = transformers.CLIPTextModelWithProjection
    pipeline.register_modules(
        text_encoder=make_clip(clip, 4),
        tokenizer=make_tokenizer(77),
        text_encoder_2=make_clip(clip, 6),
        tokenizer_2=make_tokenizer(77),
        text_encoder_3=make_t5(),
        tokenizer_3=make_tokenizer(256, begins=False),
    )
    pipeline.tokenizer_max_length = 77
    return pipeline


def test_a_template_that_depends_on_pictures_is_refused():
    """As that of ZImageOmniPipeline: words stand elsewhere beside pictures."""

    class WithPictures:
        tokenizer = make_tokenizer(24)

        def encode_prompt(self, prompt, device=None, num_condition_images=0):
            raise AssertionError("not asked")

    assert (
        "num_condition_images"
        in inspect.signature(diffusers.ZImageOmniPipeline.encode_prompt).parameters
    )
    message = "pipeline: expected one whose text is the same with and without pictures, got WithP"
    with pytest.raises(ValueError, match=message):
        ap.word_weights(WithPictures(), "a (red:2) hat")
    assert ap.word_weights(WithPictures(), "a red hat").patches == ap.PatchStack()


def templated(drop, masked):
    """Like pipelines whose text encoders are language models, with a template around a prompt."""

    class Templated:
        tokenizer = make_tokenizer(24, begins=False)

        def encode_prompt(self, prompt, device=None, num_images_per_prompt=1):
            text = [f"<|start|> describe the hat : <|end|>\n<|start|> user\n{prompt} <|end|>"]
            out = self.tokenizer(
                text, padding="max_length", max_length=24, truncation=True, return_tensors="pt"
            )
            states = F.one_hot(out["input_ids"], 32).float()
            if masked:
                kept = [s[m.bool()] for s, m in zip(states, out["attention_mask"], strict=True)]
                states = torch.stack(kept)
            return states[:, drop:], None

    pipeline = Templated()
    if drop:
        pipeline.prompt_template_encode_start_idx = drop
    return pipeline


def word_at(tokens, word, text=TEXT):
    start = text.index(word)
    return tokens.positions(start, start + len(word))


def test_tokens_of_one_text():
    """Flux: T5's tokens, without a first token of their own; CLIP's are pooled."""
    tokens = encode_text(flux(), TEXT)
    assert tokens.count == 512
    assert word_at(tokens, "red") == (1,)
    assert word_at(tokens, "red hat") == (1, 2)
    assert word_at(tokens, "blur") == (4,)
    as_long_as_clips = encode_text(flux(), TEXT, 77)
    assert as_long_as_clips.count == 77
    assert word_at(as_long_as_clips, "red") == (1,)


def test_tokens_of_texts_in_a_row():
    """SD3: CLIP's 77 tokens, then T5's."""
    tokens = encode_text(sd3(), TEXT)
    assert tokens.count == 77 + 256
    assert word_at(tokens, "red") == (2, 77 + 1)
    assert word_at(tokens, "blur") == (5, 77 + 4)
    as_long_as_clips = encode_text(sd3(), TEXT, 77)
    assert as_long_as_clips.count == 77 + 77
    assert word_at(as_long_as_clips, "red") == (2, 77 + 1)


@pytest.mark.parametrize(("drop", "masked"), [(0, False), (0, True), (7, False), (7, True)])
def test_templates_around_a_prompt(drop, masked):
    """Words of the template before it are not taken for those of the prompt."""
    pipeline = templated(drop, masked)
    states = pipeline.encode_prompt("the hat")[0][0]
    tokens = encode_text(pipeline, "the hat")
    assert tokens.count == len(states)
    (place,) = word_at(tokens, "hat", "the hat")
    vocabulary = pipeline.tokenizer.get_vocab()
    assert int(states[place].argmax()) == vocabulary["hat"]
    assert int(states[place - 1].argmax()) == vocabulary["the"]
    assert int(states[place - 2].argmax()) == vocabulary["user"]


def test_a_tokenizer_that_tells_no_places(monkeypatch):
    """Without offsets the fronts of the text tell."""
    pipeline = flux()
    fast = encode_text(pipeline, TEXT)
    monkeypatch.setattr(type(pipeline.tokenizer_2), "is_fast", False)
    slow = encode_text(pipeline, TEXT)
    for word in TEXT.split():
        assert word_at(slow, word) == word_at(fast, word)


def test_a_word_beyond_the_tokens_and_pipelines_without_text():
    pipeline = templated(0, False)
    long = "a " * 30 + "cat"
    with pytest.raises(ValueError, match="the text is cut before them"):
        word_at(encode_text(pipeline, long), "cat", long)
    with pytest.raises(TypeError, match="pipeline: expected a pipeline with a tokenizer"):
        encode_text(object(), TEXT)


def test_word_weights_are_gains_on_their_tokens():
    pipeline = flux()
    words = ap.word_weights(pipeline, "a (red:1.4) hat , (blur:-0.5)", end=0.9)
    assert words.arguments == {"prompt": TEXT}
    assert words.patches == ap.PatchStack(
        [
            KeyGain(TextKeys((1,)), 1.4, rows="all", end=0.9),
            KeyGain(TextKeys((4,)), 0.5, value_gain=-1.0, rows="all", end=0.9),
        ]
    )
    size = {**SIZE, "max_sequence_length": 16}
    plain = pipeline(**words.arguments, **size, generator=torch.Generator().manual_seed(0)).images
    with ap.attach(pipeline, words.patches):
        found = pipeline(
            **words.arguments, **size, generator=torch.Generator().manual_seed(0)
        ).images
    assert torch.isfinite(found).all() and not torch.allclose(found, plain, atol=1e-4)
    assert ap.word_weights(pipeline, TEXT).patches == ap.PatchStack()
    assert ap.word_weights(pipeline, "a (  :2) hat").patches == ap.PatchStack()


@pytest.mark.parametrize(
    ("prompt", "text", "parts"),
    [
        ("plain", "plain", []),
        ("a (red:1.4) hat", "a red hat", [("red", 1.4)]),
        ("(a:0)", "a", [("a", 0.0)]),
        ("(x)", "x", [("x", 1.1)]),
        ("(a (b:2):0.5) c", "a b c", [("a ", 0.5), ("b", 1.0)]),
        (r"\(not\) (this: -1.5 )", "(not) this", [("this", -1.5)]),
        ("ratio 3:4 (time 3:4:2)", "ratio 3:4 time 3:4", [("time 3:4", 2.0)]),
        ("(one:1)", "one", []),
        ("a\\b", "a\\b", []),
    ],
)
def test_reading_weights(prompt, text, parts):
    found = read_weights(prompt)
    assert found.text == text
    named = [(text[part.start : part.stop], pytest.approx(part.weight)) for part in found.parts]
    assert named == [part for part in parts if part[1] != 1.0]


@pytest.mark.parametrize("prompt", ["(a", "a)", "((a:2)", "(a:1e999)"])
def test_weights_that_can_not_be_read(prompt):
    if "e" in prompt:  # no number of the grammar: it is text
        assert read_weights(prompt).text == "a:1e999"
        return
    with pytest.raises(ValueError, match="prompt: expected"):
        read_weights(prompt)
    with pytest.raises(TypeError, match="prompt: expected a text"):
        read_weights(3)


@given(st.lists(st.tuples(st.text("ab ,", min_size=1, max_size=4), st.floats(-3, 3)), max_size=5))
def test_what_is_written_is_read(parts):
    prompt = "".join(f"({text}:{weight:.2f})" for text, weight in parts)
    found = read_weights(prompt)
    assert found.text == "".join(text for text, _ in parts)
    expected = [float(f"{weight:.2f}") for text, weight in parts for _ in text]
    weights = [1.0] * len(found.text)
    for start, stop, weight in found.parts:
        weights[start:stop] = [weight] * (stop - start)
    assert weights == expected


def test_regions_see_their_own_text():
    """In a transformer and in a UNet, against a dense bias."""
    texts = [torch.randn(1, n, 12, generator=torch.Generator().manual_seed(n)) for n in (3, 2, 4)]
    left = torch.zeros(10, 6)
    left[:, :3] = 1
    text, patches = ap.regional_prompts([(texts[1], left), (texts[2], 1 - left)], texts[0])
    assert text.shape == (1, 9, 12)
    case = CASES["FluxTransformer2DModel"]
    model, arguments = case.make(), case.arguments(1)
    arguments |= {"encoder_hidden_states": text, "txt_ids": torch.zeros(9, 3)}
    tokens = 9 + GRID[0] * GRID[1]
    inside = F.interpolate(left[None, None], size=GRID, mode="area").flatten()

    def gains(batch, _):
        factors = torch.ones(batch, tokens, tokens)
        factors[:, 9:, 3:5] = inside[:, None]
        factors[:, 9:, 5:9] = (1 - inside)[:, None]
        return factors, None

    with torch.no_grad():
        with ap.attach(model, patches, cond_or_uncond=(0,)):
            found = model(**arguments, return_dict=False)[0]
        with dense(tokens, tokens, gains):
            right = model(**arguments, return_dict=False)[0]
    torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)


def test_regions_in_a_unet():
    unet = make_unet("sd1")
    inputs = unet_inputs(unet, batch=1, tokens=9)
    half = torch.zeros(2, 2)
    half[0] = 1
    base, first, second = inputs["encoder_hidden_states"].split([3, 2, 4], dim=1)
    text, patches = ap.regional_prompts([(first, half), (second, 1 - half)], base)
    assert torch.equal(text, inputs["encoder_hidden_states"])

    def gains(batch, queries):
        rows = int(queries**0.5)
        inside = F.interpolate(half[None, None], size=(rows, rows), mode="area").flatten()
        factors = torch.ones(batch, queries, 9)
        factors[:, :, 3:5] = inside[:, None]
        factors[:, :, 5:9] = (1 - inside)[:, None]
        return factors, None

    with torch.no_grad():
        with ap.attach(unet, patches, cond_or_uncond=(0,)):
            found = unet(**inputs).sample
        with dense(None, 9, gains):
            right = unet(**inputs).sample
    torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)


def test_texts_that_do_not_fit():
    with pytest.raises(ValueError, match="prompts: expected at least one region"):
        ap.regional_prompts([])
    with pytest.raises(ValueError, match="of the same batch and channels"):
        ap.regional_prompts([(torch.ones(1, 2, 3), torch.ones(2, 2))], torch.ones(1, 2, 4))


def test_reference_strength():
    assert ap.reference_strength(1.5, 1, end=0.6) == KeyGain(ReferenceKeys(1), 1.5, end=0.6)


@pytest.mark.parametrize("prompt", ["a", "as", "assistant", "user", "hat"])
def test_a_prompt_that_a_template_repeats(prompt):
    text = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
    assert token_positions.place_in(text, prompt) == text.index("\n") + 1
