# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What a gain on keys is made of, and what makes no sense."""

import math

import pytest
import torch

from attnpatch.patches import KeyGain, ReferenceKeys, TextKeys

MASK = torch.ones(3, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gain": -1.0}, "gain: expected at least 0, got -1"),
        ({"gain": math.inf}, "gain: expected a finite number"),
        ({"gain": math.nan}, "gain: expected a finite number"),
        ({"value_gain": math.nan}, "value_gain: expected a finite number"),
        ({"outside": 0.5}, "outside: expected 1 without a mask"),
        ({"outside": -0.5, "mask": MASK}, "outside: expected at least 0"),
        ({"mask": 2 * MASK}, "mask: expected values of 0 to 1"),
        ({"mask": MASK * math.nan}, "mask: expected finite values"),
        ({"mask": MASK, "mask_resize": "soft"}, "mask_resize: expected one of"),
        ({"rows": "text"}, "rows: expected one of"),
        ({"start": 0.5, "end": 0.2}, "start: expected at most the end"),
        ({"end": 80}, "end: expected a progress of 0 to 1"),
        ({"weight": math.nan}, "weight: expected a finite number"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        KeyGain(TextKeys(), **options)


@pytest.mark.parametrize("tokens", [(-1,), (1.5,), "ab", 3, (), (True,)])
def test_tokens_are_whole_numbers(tokens):
    with pytest.raises((TypeError, ValueError), match="tokens: expected"):
        TextKeys(tokens)


def test_references_and_their_parts():
    with pytest.raises(ValueError, match="index: expected whole numbers of at least 0"):
        ReferenceKeys(-1)
    with pytest.raises(ValueError, match="reference mask: expected some of it above a half"):
        ReferenceKeys(0, 0.5 * MASK)
    with pytest.raises(TypeError, match="keys: expected ReferenceKeys or TextKeys, got int"):
        KeyGain(3)
