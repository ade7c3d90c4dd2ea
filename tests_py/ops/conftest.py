# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))  # for the modules that tests share

from moving import kernel_devices

# The machine may be busy, and a device slow to begin: time is no failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(scope="session", params=kernel_devices())
def device(request):
    """Every device that has kernels of ours here."""
    return torch.device(request.param)
