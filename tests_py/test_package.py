# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What `import attnpatch` brings, and what comes when it is asked for."""

import subprocess
import sys

import pytest

import attnpatch

PROGRAM = """
import sys
import attnpatch as ap

lazy = {"attnpatch.faces", "attnpatch.nodes", "attnpatch._vision", "PIL"}
assert not lazy & sys.modules.keys(), lazy & sys.modules.keys()
assert {"faces", "nodes", "vision", "attach"} <= set(dir(ap))
assert not lazy & sys.modules.keys(), "dir() imports nothing"
assert ap.faces.FaceAnalysis.__module__ == "attnpatch.faces.analysis"
assert ap.vision.clip_preprocess.__module__ == "attnpatch.vision"
assert ap.nodes.NODE_CLASS_MAPPINGS
assert ap.vision is sys.modules["attnpatch.vision"]
"""


@pytest.mark.slow
def test_some_modules_come_when_they_are_asked_for():
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)


def test_other_names_are_unknown():
    with pytest.raises(AttributeError, match="module 'attnpatch' has no attribute 'vison'"):
        _ = attnpatch.vison
