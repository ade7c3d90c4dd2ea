# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Text encoders of our own that read prompts as two kinds of ComfyUI's do."""

import re

import torch

_WEIGHTED = re.compile(r"(?<!\\)\((.*?)(?<!\\):([\d.]+)\)")


class Encoder:
    """What both have: numbers for pieces of text, and embeddings of numbers."""

    names = ("l",)

    def __init__(self, channels, length):
        self.channels, self.length = channels, length
        self.pieces = {}

    def number(self, piece):
        return self.pieces.setdefault(piece, 100 + len(self.pieces))

    def piece(self, number):
        return next(piece for piece, given in self.pieces.items() if given == number)

    def tokenize(self, text):
        return {name: self.chunks(text) for name in self.names}

    def encode_from_tokens_scheduled(self, tokens):
        entries = [entry for chunk in tokens[self.names[-1]] for entry in chunk]
        kept = entries[self.dropped :]
        generator = torch.Generator().manual_seed(len(kept))
        text = torch.randn(1, len(kept), self.channels, generator=generator)
        return [[text, {"pooled_output": torch.zeros(1, 4)}]]


class WordEncoder(Encoder):
    """Reads words and weights, in chunks of a length that begin, end and are padded (CLIP)."""

    dropped = 0

    def chunks(self, text):
        words, place = [], 0
        for found in _WEIGHTED.finditer(text):
            words += [(word, 1.0) for word in text[place : found.start()].split()]
            words += [(word, float(found[2])) for word in found[1].split()]
            place = found.end()
        words += [(word, 1.0) for word in text[place:].split()]
        words = [(re.sub(r"\\([()])", r"\1", word), weight) for word, weight in words]
        entries = [(self.number(word), weight) for word, weight in words]
        own = self.length - 2
        many = [entries[i : i + own] for i in range(0, len(entries), own)] or [[]]
        return [[(1, 1.0), *part, *[(2, 1.0)] * (self.length - 1 - len(part))] for part in many]


class LanguageEncoder(Encoder):
    """Reads pieces of words in a template, and knows no weights; the template's head is dropped."""

    names = ("model",)
    dropped = 3

    def chunks(self, text):
        text = re.sub(r"\\([()])", r"\1", text)
        pieces = [p for word in re.findall(r"\s*\S+", text) for p in re.findall(r".{1,3}", word)]
        entries = [(number, 1.0) for number in (11, 12, 13, *map(self.number, pieces), 14, 15)]
        return [entries + [(3, 1.0)] * (self.length - len(entries))]
