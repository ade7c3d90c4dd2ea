# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # for the modules that tests of all folders share

# Small tensors are quicker so, tests that run side by side leave each other the cores, and sums
# keep their order. A test that asks about threads sets their number itself.
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def browser():
    """Chromium; in modules that need it (``real_browser.needs_chromium``)."""
    from real_browser import browsing

    with browsing() as found:
        yield found
