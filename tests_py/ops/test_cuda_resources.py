# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Registers and spills of the CUDA kernels: as the table says, where they were built here."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("cuda_resources", ROOT / "tools/cuda_resources.py")
resources = importlib.util.module_from_spec(spec)
spec.loader.exec_module(resources)

SAID = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Zfirst' for 'sm_90'
ptxas info    : Function properties for _Zfirst
    24 bytes stack frame, 16 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers
ptxas info    : Compiling entry function '_Zsecond' for 'sm_80'
ptxas info    : Function properties for _Zsecond
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers, 512 bytes smem
"""


def test_what_the_assembler_says_is_read():
    assert resources.parse(SAID) == {
        ("_Zfirst", "sm_90"): [128, 24],
        ("_Zsecond", "sm_80"): [32, 0],
    }


@pytest.mark.skipif(shutil.which("c++filt") is None, reason="c++filt is not there")
def test_names_are_those_of_the_source():
    symbols = [
        "_ZN9attnpatch7kernels6device16column_sums_halfI6__halfLi64EEEvNS1_19ColumnMeanArgumentsE",
        "_ZN9attnpatch7kernels12_GLOBAL__N_114stands_for_allEv",
    ]
    assert resources.readable(symbols) == ["column_sums_half<half, 64>", "stands_for_all"]


def test_growth_is_told():
    table = {"kernel": {"sm_90": [100, 0]}}
    assert resources.grown({"kernel": {"sm_90": [104, 32]}}, table) == []
    assert "105 registers" in resources.grown({"kernel": {"sm_90": [105, 0]}}, table)[0]
    assert "40 bytes" in resources.grown({"kernel": {"sm_90": [100, 40]}}, table)[0]
    assert "not in the table" in resources.grown({"new": {"sm_90": [1, 0]}}, table)[0]


def test_the_table_knows_no_large_spill():
    """More would mean that a tile is too large for its registers."""
    table = json.loads(resources.TABLE.read_text())
    for kernel, row in table.items():
        for architecture, (registers, spilled) in row.items():
            assert registers <= 255, (kernel, architecture)
            assert spilled <= 160, (kernel, architecture)


def test_the_build_is_as_the_table_says():
    found = resources.read(ROOT / "build" / "cuda")
    if not found:
        pytest.skip("the CUDA kernels are not built in build/cuda")
    assert resources.grown(found, json.loads(resources.TABLE.read_text())) == []
