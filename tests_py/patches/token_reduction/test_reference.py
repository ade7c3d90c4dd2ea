# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Quirks against the public node pack: its outputs in a file, and itself where it is.

ATTNPATCH_SLOTHFUL names its checkout.
"""

from __future__ import annotations

import importlib.util
import os
from functools import cache

import pytest
import torch
from pack_cases import OUTPUTS, all_cases, our_outputs, signed_sums
from safetensors.torch import load_file
from slothful_pack import load, pack_outputs

CHECKOUT = os.environ.get("ATTNPATCH_SLOTHFUL")
CASES = all_cases()
SUMS = {"rtol": 1e-4, "atol": 1e-5}


@cache
def frozen():
    return load_file(OUTPUTS)


def test_the_file_has_every_case():
    assert frozen().keys() == CASES.keys()


@pytest.mark.parametrize("name", CASES)
def test_equals_the_packs_outputs(name):
    changed = 0
    for case, expected in zip(CASES[name], frozen()[name], strict=True):
        outputs, layers = our_outputs(case)
        torch.testing.assert_close(signed_sums(outputs), expected, **SUMS)
        changed += layers
    assert changed or "tiles" in name  # a tile as large as the grid changes nothing


def test_one_wrong_value_is_seen():
    name = next(iter(CASES))
    outputs, _ = our_outputs(CASES[name][0])
    outputs[3][1, 7, 2] += 0.01
    differs = (signed_sums(outputs) - frozen()[name][0]).abs() > 1e-4
    assert differs.nonzero().tolist() == [[3, 1, 0], [3, 1, 1]]


@pytest.mark.skipif(
    CHECKOUT is None, reason="ATTNPATCH_SLOTHFUL names no checkout of comfyui_slothful_attention"
)
@pytest.mark.skipif(
    CHECKOUT is not None and importlib.util.find_spec("einops") is None,
    reason="the pack needs einops, which is not installed",
)
def test_equals_the_pack_itself():
    pack = load(CHECKOUT)
    for name, cases in CASES.items():
        for case, sums in zip(cases, frozen()[name], strict=True):
            expected = pack_outputs(pack, case)
            for ours, theirs in zip(our_outputs(case)[0], expected, strict=True):
                torch.testing.assert_close(
                    ours,
                    theirs,
                    rtol=1e-4,
                    atol=1e-5,
                    msg=lambda text, at=(name, case): f"{at}: {text}",
                )
            torch.testing.assert_close(signed_sums(expected), sums, **SUMS)
