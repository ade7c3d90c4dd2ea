# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The public ComfyUI_InstantID beside ours; ATTNPATCH_INSTANTID names its checkout."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from unittest import mock

import numpy as np
import pytest
import real_host  # noqa: F401 (the pack imports ComfyUI)
import torch

CHECKOUT = os.environ.get("ATTNPATCH_INSTANTID")
needs_pack = pytest.mark.skipif(
    CHECKOUT is None, reason="ATTNPATCH_INSTANTID names no checkout of ComfyUI_InstantID"
)


def load():
    """Import the pack as ComfyUI does: a package in a folder of any name."""
    name = "reference_instantid_pack"
    if name not in sys.modules:
        _stand_in_for_torchvision()
        _stand_in_for_insightface()
        spec = importlib.util.spec_from_file_location(name, Path(CHECKOUT, "__init__.py"))
        sys.modules[name] = package = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(package)
    return sys.modules[f"{name}.InstantID"]


def _stand_in_for_torchvision():
    """Of it the pack uses one function: pictures of Pillow to tensors (C, H, W)."""
    if importlib.util.find_spec("torchvision") is not None:
        return

    class ToTensor:
        def __call__(self, pictures):
            return [torch.from_numpy(np.array(p)).movedim(-1, 0).float() / 255 for p in pictures]

    for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.v2"):
        sys.modules[name] = ModuleType(name)
    sys.modules["torchvision.transforms.v2"].ToTensor = ToTensor


def _stand_in_for_insightface():
    """Of it the pack needs a class that its loader alone makes objects of."""
    if importlib.util.find_spec("insightface") is not None:
        return
    for name in ("insightface", "insightface.app"):
        sys.modules[name] = ModuleType(name)
    sys.modules["insightface.app"].FaceAnalysis = None


def make_model(state):
    """Return the pack's own object of a nested state dict."""
    with torch.no_grad():
        return load().InstantID(
            {group: dict(tensors) for group, tensors in state.items()},
            cross_attention_dim=1280,
            output_cross_attention_dim=state["ip_adapter"]["1.to_k_ip.weight"].shape[1],
        )


def run(node, **inputs):
    """Run a node of the pack."""
    made = getattr(load(), node)()
    function = getattr(made, made.FUNCTION)
    with torch.no_grad():  # not inference_mode, in which it can not set weights under torch 2.15
        return function(**inputs)


@contextlib.contextmanager
def middle_block(reached=True):
    """Let the pack's patch of the middle block get the key that ComfyUI looks for, or not."""
    module = load()
    if not reached:
        yield
        return
    original = module._set_model_patch_replace

    def corrected(model, patch_kwargs, key):
        original(model, patch_kwargs, ("middle", 0, *key[2:]) if key[0] == "middle" else key)

    with mock.patch.object(module, "_set_model_patch_replace", corrected):
        yield
