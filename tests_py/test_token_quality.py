# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The table of how far fewer tokens are from exact attention, and the command that writes it."""

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "bench"))
import token_quality  # noqa: E402

from attnpatch import NearSightedTile, SlothfulAttention  # noqa: E402

DOCS = ROOT / "docs" / "token-reduction.md"


def test_docs_have_a_line_for_each_case():
    """If this fails: ./run bench quality"""
    text = DOCS.read_text(encoding="utf-8")
    assert text.startswith(token_quality.HEAD)
    rows = [line.split(" | ")[0][2:] for line in text.splitlines() if line.startswith("| ")]
    listed = [row for row in rows if row not in ("", "---")]
    assert listed == [case.text for case in token_quality.cases()]


def compare(patch):
    table, inputs = token_quality.random_fields()
    with torch.inference_mode():
        return token_quality.compare(patch, table, inputs)


def test_errors_follow_the_strength(monkeypatch):
    monkeypatch.setattr(token_quality, "FIELD", 32)
    errors = []
    for slothful in (1.5, 4, 9):
        found = compare(SlothfulAttention(time_decay=0, in_slothful=slothful))
        errors.append(found["independent"][0])
        rows = {1.5: 16, 4: 16, 9: 11}[slothful]  # of 32; a stride of 1.5 takes every other row
        columns = {1.5: 32, 4: 16, 9: 11}[slothful]
        assert found["pairs"] == [pytest.approx(rows * columns / 32**2)] * 2
        assert 0 < found["smooth"][0] < found["independent"][0]
    assert errors == sorted(errors)
    found = compare(NearSightedTile(tile_size=16, global_ratio=0))
    assert found["pairs"] == [pytest.approx(0.25)] * 2
    assert compare(NearSightedTile(tile_size=32))["smooth"] == [None]
