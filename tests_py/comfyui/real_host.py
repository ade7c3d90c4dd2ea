# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The real ComfyUI in this process, on the CPU. ATTNPATCH_COMFYUI names the checkout.

Importing this module imports ComfyUI, which reads the command line and patches global state: only
processes that ``test_real_comfyui.py`` starts do so. They take ComfyUI's modules from here, as in
``from real_host import comfy``.
"""

from __future__ import annotations

import os
import sys
import tempfile

import torch
from narrow_models import noise, prompt

_arguments, sys.argv = (
    sys.argv,
    [
        "main.py",
        "--cpu",
        "--use-pytorch-cross-attention",
        "--base-directory",
        tempfile.mkdtemp(),
    ],
)
sys.path.insert(0, os.environ["ATTNPATCH_COMFYUI"])
import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()
import comfy.controlnet  # noqa: E402
import comfy.ldm.modules.attention  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.samplers  # noqa: E402
import comfy.supported_models  # noqa: E402
import comfy_extras.nodes_custom_sampler  # noqa: E402, F401

sys.argv = _arguments


def sample(model, *, size=(16, 24), batch=1, steps=2, cfg=4.0, positive=None, negative=None):
    """Sample as the KSampler node does, from one noise; returns (batch, 4, *size)."""
    shape = batch, 4, *size
    with torch.inference_mode():
        return comfy.sample.sample(
            model,
            noise(*shape, seed=5),
            steps,
            cfg,
            "euler",
            "normal",
            [prompt(model, 6)] if positive is None else positive,
            [prompt(model, 8)] if negative is None else negative,
            torch.zeros(shape),
            disable_pbar=True,
            seed=9,
        ).clone()


def relative(ours, theirs):
    """Largest difference over largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())
