# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from attnpatch import ImagePrompt, PatchStack
from attnpatch.patches.image_prompt.keys_values import SCALINGS, KeysValues


class Adapter:
    """Projects tokens by one matrix for each of keys and values."""

    tokens = 4

    def __init__(self):
        generator = torch.Generator().manual_seed(1)
        self.weights = [torch.randn(8, 8, generator=generator) for _ in range(2)]

    def project_sites(self, tokens):
        return [tuple(tokens @ weight for weight in self.weights)]


def tokens(pictures, seed):
    return torch.randn(1, 4 * pictures, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS)
@pytest.mark.parametrize("shared_softmax", [False, True])
def test_joined_pictures_are_weighed_like_each_alone(scaling, shared_softmax):
    weight = torch.full((1, 1, 1), 0.3)
    cond = tokens(3, seed=2)
    joined = KeysValues.project(Adapter(), (cond, None))
    assert joined.own_tokens == 4
    k, v = joined.parts[0].layers[0]
    expected = [
        scaling.fold(
            *KeysValues.project(Adapter(), (one, None)).parts[0].layers[0], weight, shared_softmax
        )
        for one in cond.split(4, dim=1)
    ]
    got = scaling.fold(k, v, weight, shared_softmax, joined.own_tokens)
    for mine, parts in zip(got, zip(*expected, strict=True), strict=True):
        torch.testing.assert_close(mine, torch.cat(parts, 1))


def test_unequal_numbers_of_tokens_keep_their_own():
    kv = KeysValues.project(Adapter(), (tokens(2, seed=3), tokens(1, seed=4)))
    assert kv.own_tokens == 4 and len(kv.parts) == 2


def test_rows_that_no_picture_divides_are_one():
    kv = KeysValues.project(Adapter(), (tokens(2, seed=3)[:, :7], None))
    assert kv.own_tokens == 0


def test_files_keep_it(tmp_path):
    stack = PatchStack([ImagePrompt(Adapter(), (tokens(2, seed=3), None))])
    stack.save(tmp_path / "stack.safetensors")
    loaded = PatchStack.load(tmp_path / "stack.safetensors")
    assert loaded == stack and loaded[0].keys_values.own_tokens == 4
