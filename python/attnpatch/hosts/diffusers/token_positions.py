# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Which tokens of the text that a pipeline's denoiser is given are those of a word."""

from __future__ import annotations

import bisect
import copy
import inspect
from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["TextTokens", "encode_text"]

_TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3", "tokenizer_4")
_DROPPED = "prompt_template_encode_start_idx"  # pipelines' own name of it
# On which the text depends: of ZImageOmniPipeline, and of Qwen-Image's edit models.
_PICTURES = ("num_condition_images", "image")
_LENGTH = "max_sequence_length"  # pipelines' own name of it
_REWRITES = "caption_upsample_temperature"  # Flux2Pipeline's, with which it writes another prompt
_ENCODERS = ("text_encoder_2", "text_encoder_3", "text_encoder_4")


class TextTokens(NamedTuple):
    """How a pipeline makes tokens of a prompt."""

    count: int
    """How many tokens its denoiser is given."""
    spans: tuple[tuple[tuple[int, int], ...], ...]
    """For each text that is part of these, the characters of the prompt that each token is of."""
    offsets: tuple[int, ...]
    """Where the tokens of each of these texts begin."""
    arguments: Mapping[str, Any]
    """What a call of the pipeline is to be given, where the places of tokens depend on it."""

    def positions(self, start: int, stop: int) -> tuple[int, ...]:
        """Return the tokens that hold characters `start` to `stop` of the prompt.

        Raises
        ------
        ValueError
            Where none does: the text was cut before.
        """
        found = sorted(
            {
                offset + token
                for offset, spans in zip(self.offsets, self.spans, strict=True)
                for token, (first, last) in enumerate(spans)
                if first < stop and last > start and 0 <= offset + token < self.count
            }
        )
        if not found:
            raise ValueError(
                f"prompt: expected characters {start} to {stop} among the {self.count} tokens that "
                "the model is given, but the text is cut before them"
            )
        return tuple(found)


class _Call(NamedTuple):
    """What a tokenizer was asked and gave."""

    tokenizer: Any
    text: str
    ids: list[int]
    mask: list[int]


class _Recorder:
    """Stands for a tokenizer and keeps what it is asked."""

    def __init__(self, tokenizer: Any, calls: list[_Call]) -> None:
        self._tokenizer = tokenizer
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __len__(self) -> int:
        return len(self._tokenizer)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        out = self._tokenizer(*args, **kwargs)
        self._keep(kwargs.get("text", args[0] if args else None), out)
        return out

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        """Apply it, and keep its text where it makes tokens at once."""
        out = self._tokenizer.apply_chat_template(conversation, *args, **kwargs)
        if kwargs.get("tokenize", True) and hasattr(out, "keys"):
            words = ("add_generation_prompt", "enable_thinking")
            told = {name: kwargs[name] for name in words if name in kwargs}
            text = self._tokenizer.apply_chat_template(conversation, tokenize=False, **told)
            self._keep(text, out)
        return out

    def _keep(self, text: Any, out: Any) -> None:
        texts = [text] if isinstance(text, str) else list(text or ())
        ids, mask = (out.get(name) for name in ("input_ids", "attention_mask"))
        if len(texts) != 1 or ids is None:
            return
        row = ids[0] if len(ids) == 1 and not isinstance(ids[0], int) else ids
        numbers = [int(i) for i in row]
        kept = [1] * len(numbers)
        if mask is not None:
            masked = mask[0] if len(mask) == 1 and not isinstance(mask[0], int) else mask
            kept = [int(i) for i in masked]
        # Processors of text and pictures have a tokenizer that does their part in this.
        tokenizer = getattr(self._tokenizer, "tokenizer", self._tokenizer)
        self._calls.append(_Call(tokenizer, texts[0], numbers, kept))


def encode_text(pipeline: Any, prompt: str, length: int | None = None) -> TextTokens:
    """Find out how a pipeline makes tokens of a prompt, by having it encode that.

    Parameters
    ----------
    pipeline
        A pipeline of diffusers with text encoders and tokenizers.
    prompt
        A text, without weights.
    length
        The ``max_sequence_length`` that the pipeline's call is given; None: its own default.

    Raises
    ------
    TypeError
        If it is no such pipeline.
    ValueError
        Where its tokens do not tell.
    """
    calls: list[_Call] = []
    twin = copy.copy(pipeline)
    names = [name for name in _TOKENIZERS if getattr(pipeline, name, None) is not None]
    if not names or not hasattr(pipeline, "encode_prompt"):
        raise TypeError(
            "pipeline: expected a pipeline with a tokenizer that encodes prompts, got "
            f"{type(pipeline).__name__}"
        )
    known = inspect.signature(pipeline.encode_prompt).parameters
    if any(name in known for name in _PICTURES):
        raise ValueError(
            f"pipeline: expected one whose text is the same with and without pictures, got "
            f"{type(pipeline).__name__}, where they move the words; give KeyGain(TextKeys(tokens), "
            "gain) the tokens"
        )
    for name in names:
        twin.__dict__[name] = _Recorder(getattr(pipeline, name), calls)
    arguments = _arguments(twin, prompt, known)
    if length is not None and _LENGTH not in known:
        raise ValueError(
            f"max_sequence_length: expected None for {type(pipeline).__name__}, whose texts have "
            f"one length, got {length}"
        )
    taken = _usual_length(pipeline, known) if length is None else length
    if taken is not None:
        arguments[_LENGTH] = taken
    with torch.no_grad():
        encoded = twin.encode_prompt(**arguments)
    count = _count(encoded)
    asked = [call for call in calls if prompt in call.text]
    held = _by_text(asked, count, getattr(pipeline, _DROPPED, 0), _lacks_encoders(pipeline))
    if not held:
        lengths = [len(call.ids) for call in asked]
        raise ValueError(
            f"prompt: expected to learn which of the {count} tokens of {type(pipeline).__name__} "
            f"are whose, got tokenizers that make {lengths}"
        )
    spans = tuple(_spans(call, prompt) for call, _ in held)
    fixed: dict[str, Any] = {}
    if any(_is_padded_before(*each) for each in held):
        fixed[_LENGTH] = taken
    if _REWRITES in _call_parameters(pipeline):
        fixed[_REWRITES] = None
    return TextTokens(count, spans, tuple(offset for _, offset in held), fixed)


def _usual_length(pipeline: Any, known: Mapping[str, inspect.Parameter]) -> int | None:
    """Return the length of texts that a pipeline's call takes by itself; None: it has no say."""
    if _LENGTH not in known:
        return None
    # Of Qwen-Image's call it is another than of its encode_prompt.
    default = _call_parameters(pipeline).get(_LENGTH, known[_LENGTH]).default
    return default if isinstance(default, int) else None


def _call_parameters(pipeline: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(type(pipeline).__call__).parameters


def _is_padded_before(call: _Call, offset: int) -> bool:
    """Whether padding stands before a text's tokens among those that the denoiser is given."""
    return call.mask[0] == 0 and offset == 0


def _lacks_encoders(pipeline: Any) -> bool:
    """Whether a pipeline goes without one of its encoders, in whose place it puts zeros."""
    return any(getattr(pipeline, name, pipeline) is None for name in _ENCODERS)


def _arguments(pipeline: Any, prompt: str, known: Collection[str]) -> dict[str, Any]:
    """Return what a pipeline wants to encode a prompt, with nothing to avoid."""
    arguments: dict[str, Any] = {
        "prompt": prompt,
        "prompt_2": None,
        "prompt_3": None,
        "device": getattr(pipeline, "_execution_device", None),
        "num_images_per_prompt": 1,
        "do_classifier_free_guidance": False,
    }
    return {name: value for name, value in arguments.items() if name in known}


def _count(encoded: Any) -> int:
    first = encoded[0] if isinstance(encoded, tuple) else encoded
    if isinstance(first, list):
        first = first[0]
        return int(first.shape[0] if first.dim() == 2 else first.shape[1])
    assert isinstance(first, Tensor)
    return int(first.shape[1])


def _by_text(
    calls: Sequence[_Call], count: int, dropped: int, lacks_encoders: bool
) -> list[tuple[_Call, int]]:
    """Return the texts that the tokens are made of, and where the tokens of each begin."""
    if dropped:
        return [(call, -dropped) for call in calls[:1] if call.mask[0]]
    whole = [(call, 0) for call in calls if len(call.ids) == count]
    if whole:
        return whole[-1:]  # encoders that give a pooled text alone come first
    kept = [call for call in calls if sum(call.mask) == count]
    if kept:
        return [(kept[0], -call.mask.index(1)) for call in kept[:1]]
    if lacks_encoders:  # the zeros come last
        return [(call, 0) for call in calls[:1] if len(call.ids) < count]
    # The last encoder's text comes after the first one's; others stand beside that (SD3).
    for call in calls[1:]:
        front = count - len(call.ids)
        if call.tokenizer is calls[-1].tokenizer and front == len(calls[0].ids):
            return [(calls[0], 0), (call, front)]
    return []


def _spans(call: _Call, prompt: str) -> tuple[tuple[int, int], ...]:
    """Return the characters of the prompt that each token is of; (0, 0): none."""
    start = place_in(call.text, prompt)
    places = _offsets(call)
    return tuple(
        (max(first - start, 0), min(last - start, len(prompt)))
        if last > first and last > start and first < start + len(prompt)
        else (0, 0)
        for first, last in places
    )


def place_in(text: str, prompt: str) -> int:
    """Return where the prompt stands in a text, which may be a template around it."""
    places = [i for i in range(len(text)) if text.startswith(prompt, i)]
    if len(places) > 1:
        # A template's own words before it may hold it too: it stands at the end of a tag or line.
        likely = [i for i in places if i == 0 or text[i - 1] in ">\n"]
        places = likely or places
        # Words that a template ends with ("<|im_start|>assistant") have no tag after them.
        ends = [i for i in places if text[i + len(prompt) :].lstrip().startswith("<")]
        places = ends or places
    return places[-1]


def _offsets(call: _Call) -> list[tuple[int, int]]:
    """Return the characters of a text that each token is of."""
    tokenizer, ids = call.tokenizer, call.ids
    if getattr(tokenizer, "is_fast", False):
        for special in (True, False):  # chat templates bring their own
            again = tokenizer(
                call.text,
                return_offsets_mapping=True,
                padding="max_length",
                truncation=True,
                max_length=len(ids),
                add_special_tokens=special,
            )
            if list(again["input_ids"]) == ids:
                return [(int(first), int(last)) for first, last in again["offset_mapping"]]
    return _offsets_by_prefixes(call)


def _offsets_by_prefixes(call: _Call) -> list[tuple[int, int]]:
    """Find the end of each token by the tokens of longer and longer fronts of the text."""
    before = call.mask.index(1) if 1 in call.mask else 0  # padding
    own = call.ids[before:]
    ends = [0] * len(own)
    counts = [_common(call, own, call.text[:stop]) for stop in range(len(call.text) + 1)]
    best = list(accumulate(counts, max))
    for token in range(len(own)):
        ends[token] = bisect.bisect_left(best, token + 1)
    starts = [0, *ends[:-1]]
    total = len(call.text)
    return [(0, 0)] * before + [
        (first, last) if last <= total and last > first else (0, 0)
        for first, last in zip(starts, ends, strict=True)
    ]


def _common(call: _Call, own: Sequence[int], text: str) -> int:
    """Return with how many tokens of its own, in a row, the ids of a text begin."""
    ids = call.tokenizer(text, add_special_tokens=True)["input_ids"]
    same = 0
    for one, other in zip(ids, own, strict=False):
        if one != other:
            break
        same += 1
    return same
