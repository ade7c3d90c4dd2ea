# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The public ComfyUI_IPAdapter_plus beside ours; ATTNPATCH_IPADAPTER_PLUS names its checkout."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from pathlib import Path
from unittest import mock

import pytest
import real_host  # noqa: F401 (the pack imports ComfyUI)
import torch

CHECKOUT = os.environ.get("ATTNPATCH_IPADAPTER_PLUS")
needs_pack = pytest.mark.skipif(
    CHECKOUT is None, reason="ATTNPATCH_IPADAPTER_PLUS names no checkout of ComfyUI_IPAdapter_plus"
)


def load():
    """Import the pack as ComfyUI does: a package in a folder of any name."""
    name = "reference_ipadapter_plus"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(CHECKOUT, "__init__.py"))
        sys.modules[name] = package = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(package)
    return sys.modules[f"{name}.IPAdapterPlus"]


def apply(model, state, features, **options):
    """Return a clone of `model` with the pack's patch.

    Parameters
    ----------
    model
        ModelPatcher.
    state
        The nested state dict of an adapter.
    features
        What the image encoder gave of the picture and of the negative one.
    **options
        Of the pack's own function: weight, weight_type, start_at, end_at, attn_mask, ….
    """
    positive, negative = features
    with torch.no_grad():  # not inference_mode, in which it can not set weights under torch 2.15
        return load().ipadapter_execute(
            model.clone(), state, None, pos_embed=positive, neg_embed=negative, **options
        )[0]


@contextlib.contextmanager
def middle_block(reached=True):
    """Let the pack's patch of the middle block get the key that ComfyUI looks for, or not."""
    module = load()
    if not reached:
        yield
        return
    original = module.set_model_patch_replace

    def corrected(model, patch_kwargs, key):
        original(model, patch_kwargs, ("middle", 0, *key[2:]) if key[0] == "middle" else key)

    with mock.patch.object(module, "set_model_patch_replace", corrected):
        yield
