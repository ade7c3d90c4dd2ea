# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Hosts are recognised without importing them."""

import subprocess
import sys
from types import SimpleNamespace

from attnpatch.hosts.recognition import diffusers_unet


def test_a_unet_is_told_by_its_blocks():
    names = ("down_blocks", "mid_block", "up_blocks", "set_attn_processor")
    unet = SimpleNamespace(**dict.fromkeys(names))
    compiled = SimpleNamespace(_orig_mod=unet)
    for model in (unet, compiled, SimpleNamespace(unet=unet), SimpleNamespace(unet=compiled)):
        assert diffusers_unet(model) is unet
    controlnet = SimpleNamespace(down_blocks=None, mid_block=None, set_attn_processor=None)
    for model in (controlnet, SimpleNamespace(unet=None), None, 3):
        assert diffusers_unet(model) is None


def test_importing_the_package_imports_no_host_and_no_compiler():
    program = "import sys, attnpatch; print(*sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert not {"diffusers", "transformers", "torch._dynamo"} & set(found.stdout.split())
