# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Words of prompts in the texts of diffusers' own pipelines, by tokenizers like the real ones.

The text encoders put the number of each token into the text: what a weight is for can be read back.
"""

import inspect
from types import SimpleNamespace

import diffusers
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformer_models import CASES

import attnpatch as ap

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{{ message.content[0].text }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXTS = ["a red hat on the big dog, blue hats and football", "user system assistant Describe the"]


def bytes_tokenizer(side="right"):
    """As language models have it: a space belongs to the word after it."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(TEXTS * 9, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        model_max_length=2048,
        padding_side=side,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


class Processor:
    """As Flux.2's: its first argument is a picture, and its tokenizer pads on the left."""

    def __init__(self):
        self.tokenizer = bytes_tokenizer("left")

    def __call__(self, images=None, text=None, **options):
        assert images is None
        return self.tokenizer(text, **options)

    def apply_chat_template(self, conversation, tokenize=False, return_dict=False, **options):
        return self.tokenizer.apply_chat_template(
            conversation, tokenize=tokenize, return_dict=return_dict, **options
        )


class Encoder(torch.nn.Module):
    """Its states hold the numbers of the tokens."""

    def __init__(self, channels=12):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.channels = channels
        self.dtype, self.device = torch.float32, torch.device("cpu")

    def forward(self, input_ids, **options):
        states = input_ids[..., None].float().expand(-1, -1, self.channels)
        return SimpleNamespace(hidden_states=(states,) * 40, last_hidden_state=states)


def make(kind, tokenizer, channels=12, **more):
    parts = {"scheduler": diffusers.FlowMatchEulerDiscreteScheduler(), "vae": None} | more
    return kind(transformer=None, text_encoder=Encoder(channels), tokenizer=tokenizer, **parts)


PIPELINES = {
    "qwen": lambda: make(diffusers.QwenImagePipeline, bytes_tokenizer()),
    "z_image": lambda: make(diffusers.ZImagePipeline, bytes_tokenizer()),
    "z_image, left": lambda: make(diffusers.ZImagePipeline, bytes_tokenizer("left")),
    "klein": lambda: make(diffusers.Flux2KleinPipeline, bytes_tokenizer(), 4),
    "klein, left": lambda: make(diffusers.Flux2KleinPipeline, bytes_tokenizer("left"), 4),
    "flux2": lambda: make(diffusers.Flux2Pipeline, Processor(), 4),
    "krea2": lambda: make(
        diffusers.Krea2Pipeline, bytes_tokenizer(), text_encoder_select_layers=(1, 2)
    ),
}
PADDED_BEFORE = ("klein, left", "flux2")
REWRITING = {"flux2": {"caption_upsample_temperature": None}}


def words_of(pipeline, words):
    """For each weight the words that have it, without spaces, read back from the text."""
    taken = inspect.signature(pipeline.encode_prompt).parameters
    encoded = pipeline.encode_prompt(**{n: v for n, v in words.arguments.items() if n in taken})[0]
    text = encoded[0].flatten(1)
    tokenizer = getattr(pipeline.tokenizer, "tokenizer", pipeline.tokenizer)
    numbers = [[int(text[token, 0]) for token in patch.keys.tokens] for patch in words.patches]
    return {
        round(patch.gain * patch.value_gain, 6): "".join(tokenizer.decode(own).split())
        for patch, own in zip(words.patches, numbers, strict=True)
    }


@pytest.mark.parametrize(
    ("prompt", "weights"),
    [
        ("a (red:1.4) hat", {1.4: "red"}),
        ("a (big :2)dog", {2.0: "big"}),
        ("user and (user:0.5)", {0.5: "user"}),
        ("(a (red:2) hat, (blue:3) hats:0.5)", {0.5: "ahat,hats", 1.5: "blue"}),
        ("a (dog, :2)(hat:-0.5)", {2.0: "dog,", -0.5: "hat"}),
        ("the (帽子:2) café (naïve:3)", {2.0: "帽子", 3.0: "naïve"}),
    ],
)
@pytest.mark.parametrize("name", PIPELINES)
def test_a_weight_is_for_its_own_words(name, prompt, weights):
    pipeline = PIPELINES[name]()
    words = ap.word_weights(pipeline, prompt)
    assert words_of(pipeline, words) == weights


def test_a_token_that_two_words_share_has_one_weight():
    pipeline = PIPELINES["qwen"]()
    assert words_of(pipeline, ap.word_weights(pipeline, "a (r:2)(ed:3) hat")) == {2.0: "red"}


@pytest.mark.parametrize("name", PIPELINES)
def test_texts_of_other_lengths(name):
    """Where padding stands before the text, its length decides which tokens are whose."""
    pipeline = PIPELINES[name]()
    prompt = "a (red:2) hat"
    always = {"prompt": "a red hat"} | REWRITING.get(name, {})
    usual = ap.word_weights(pipeline, prompt).arguments
    assert usual == always | ({"max_sequence_length": 512} if name in PADDED_BEFORE else {})
    shorter = ap.word_weights(pipeline, prompt, max_sequence_length=300)
    assert shorter.arguments == always | {"max_sequence_length": 300}
    assert words_of(pipeline, shorter) == {2.0: "red"}


def test_a_prompt_that_is_to_be_written_anew():
    """Flux.2 can write another prompt, whose words stand elsewhere: not beside weights of words."""
    pipeline = PIPELINES["flux2"]()
    words = ap.word_weights(pipeline, "a (red:2) hat")
    with pytest.raises(TypeError, match=r"multiple values for keyword .*caption_upsample"):
        pipeline(**words.arguments, caption_upsample_temperature=0.15)


def test_a_word_beyond_the_length_that_a_pipeline_takes_by_itself():
    """Qwen-Image's call takes 512 tokens, its ``encode_prompt`` 1024."""
    pipeline = PIPELINES["qwen"]()
    prompt = "a red hat " * 200 + "(dog:2)"
    with pytest.raises(ValueError, match=r"among the 512 tokens .* cut before them"):
        ap.word_weights(pipeline, prompt)
    longer = ap.word_weights(pipeline, prompt, max_sequence_length=1024)
    assert words_of(pipeline, longer) == {2.0: "dog"}


def test_a_length_that_a_pipeline_does_not_take():
    pipeline = SimpleNamespace(tokenizer=bytes_tokenizer(), encode_prompt=lambda prompt: None)
    with pytest.raises(ValueError, match="max_sequence_length: expected None for SimpleNamespace"):
        ap.word_weights(pipeline, "a (red:2) hat", max_sequence_length=300)


def test_edit_models_are_refused():
    """Pictures stand before the prompt in their texts."""
    kind = diffusers.QwenImageEditPlusPipeline
    pipeline = make(kind, bytes_tokenizer(), processor=Processor())
    with pytest.raises(ValueError, match="expected one whose text is the same with and without"):
        ap.word_weights(pipeline, "a (red:2) hat")


def test_stable_diffusion_3_without_its_largest_encoder():
    """CLIP's tokens come first; zeros stand in the place of T5's."""

    class Clip(Encoder):
        def forward(self, input_ids, **options):
            states = super().forward(input_ids).last_hidden_state
            return transformers.modeling_outputs.BaseModelOutputWithPooling(
                last_hidden_state=states[:, 0], hidden_states=(states,) * 3
            )

    tokenizer = bytes_tokenizer()
    tokenizer.model_max_length = 77
    pipeline = diffusers.StableDiffusion3Pipeline(
        transformer=CASES["SD3Transformer2DModel"].make(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=None,
        text_encoder=Clip(6),
        tokenizer=tokenizer,
        text_encoder_2=Clip(6),
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    for length in (256, 77):
        words = ap.word_weights(pipeline, "a (red:2) hat", max_sequence_length=length)
        text = pipeline.encode_prompt(**words.arguments, prompt_2=None, prompt_3=None)[0]
        assert text.shape[1] == 77 + length
        numbers = [int(text[0, token, 0]) for token in words.patches[0].keys.tokens]
        assert tokenizer.decode(numbers) == " red"
