# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The real ComfyUI: every ``check_*.py`` here, each in a process of its own.

ATTNPATCH_COMFYUI names a checkout, ATTNPATCH_COMFYUI_PYTHON the Python that has what ComfyUI needs,
attnpatch and pytest (default: this one), ATTNPATCH_IPADAPTER_PLUS, ATTNPATCH_INSTANTID and
ATTNPATCH_SLOTHFUL checkouts of the public packs of image prompts, of InstantID and of Slothful
Attention. A file can be run alone, with that Python::

    python -m pytest -W default tests_py/comfyui/check_image_prompt.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKS = sorted(Path(__file__).parent.glob("check_*.py"))


@pytest.mark.skipif(
    "ATTNPATCH_COMFYUI" not in os.environ, reason="ATTNPATCH_COMFYUI names no checkout of ComfyUI"
)
@pytest.mark.parametrize("file", CHECKS, ids=lambda file: file.stem)
def test_in_the_real_host(file):
    # ComfyUI and what it imports warn of their own things: -W default.
    done = subprocess.run(
        [
            os.environ.get("ATTNPATCH_COMFYUI_PYTHON", sys.executable),
            *("-m", "pytest", "-W", "default", "-p", "no:cacheprovider", "-q", "--no-header", file),
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    sys.stdout.write(done.stdout[-4000:])
    assert done.returncode == 0, done.stderr[-3000:]
