# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for the modules that checks share

import pytest
from narrow_transformers import CASES, make_transformer


@pytest.fixture(scope="module", params=list(CASES))
def case(request):
    """A family of transformers that this ComfyUI has."""
    from real_host import comfy

    found = CASES[request.param]
    if not hasattr(comfy.supported_models, found.model):
        pytest.skip(f"this ComfyUI has no {found.model}")
    return found


@pytest.fixture(scope="module")
def model(case):
    """A small model of it."""
    return make_transformer(case)
