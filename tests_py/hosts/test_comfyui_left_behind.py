# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Turning what stayed behind is rotary embedding of positions that are as much further on."""

import pytest
import torch

from attnpatch.hosts.comfyui.transformer.left_behind import LeftBehind

ROWS, HEADS, SIZE, AXIS, THETA = 2, 3, 16, 6, 256.0


def rotary(x, positions):
    """Turn pairs of the first AXIS channels by the position, in float64, as complex numbers."""
    turns = THETA ** -(torch.arange(AXIS // 2, dtype=torch.float64) * 2 / AXIS)
    turn = torch.polar(torch.ones(len(positions), AXIS // 2).double(), positions[:, None] * turns)
    pairs = torch.view_as_complex(x[..., :AXIS].double().unflatten(-1, (-1, 2)).contiguous())
    return torch.cat([torch.view_as_real(pairs * turn).flatten(-2), x[..., AXIS:]], dim=-1)


def behind(first=(), others=()):
    return LeftBehind(64, theta=THETA, size=AXIS, first=first, others=others)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_tokens_that_stayed_are_as_at_later_positions(dtype):
    x = torch.randn(ROWS, HEADS, 7, SIZE)
    positions = torch.tensor([0.0, 1, 2, 30, 31, 5, 0]).double()
    moved = positions.clone()
    moved[[0, 1, 6]] += 64
    given = rotary(x, positions).to(dtype)
    kept = given.clone()
    q, k = behind(others=[(7, ((0, 2), (6, 7)))]).follow(given, given)
    expected, tolerance = rotary(x, moved), 1e-5 if dtype == torch.float32 else 4e-3
    for found in (q, k):
        torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=tolerance)
        assert torch.equal(found[:, :, 2:6], given[:, :, 2:6])
    assert torch.equal(given, kept)


def test_attentions_come_in_order_before_others_of_as_many_tokens():
    """A text, then features that all stay, then pictures, each of four tokens."""
    x = torch.randn(1, 1, 4, SIZE).double()
    later = rotary(x, torch.tensor([64.0, 64, 0, 0]).double())
    image = rotary(x, torch.tensor([0.0, 0, 0, 64]).double())
    moving = behind(first=[(4, ((0, 2),)), (4, ())], others=[(4, ((3, 4),))])
    for expected in (later, x, image, image):
        for found in moving.follow(x, x):
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_other_attentions_are_left_alone():
    x, y = torch.randn(1, 1, 4, SIZE), torch.randn(1, 1, 5, SIZE)
    moving = behind(others=[(4, ((0, 4),))])
    for q, k in ((x, y), (y, y)):
        found = moving.follow(q, k)
        assert found[0] is q and found[1] is k
