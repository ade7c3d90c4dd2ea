# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The real Fooocus beside ours: set ATTNPATCH_FOOOCUS to a checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = os.environ.get("ATTNPATCH_FOOOCUS")


@pytest.mark.skipif(CHECKOUT is None, reason="ATTNPATCH_FOOOCUS names no checkout of Fooocus")
def test_the_same_as_fooocus():
    script = Path(__file__).parent / "compare_with_fooocus.py"
    done = subprocess.run(
        [sys.executable, script, CHECKOUT],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures.pop("effect of the prompt") > 0.1
    assert len(figures) >= 4 and all(difference < 1e-4 for difference in figures.values()), figures
