# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Telling hosts' models apart by what they look like, without importing any host."""

from __future__ import annotations

from typing import Any

_UNET_NAMES = ("down_blocks", "mid_block", "up_blocks", "set_attn_processor")


def diffusers_unet(model: Any) -> Any:
    """Return the UNet of a diffusers pipeline, or the UNet that `model` is; else None."""
    for candidate in (unwrapped(model), unwrapped(getattr(model, "unet", None))):
        if all(hasattr(candidate, name) for name in _UNET_NAMES):
            return candidate
    return None


def unwrapped(module: Any) -> Any:
    """Return the module that torch.compile wrapped, or `module` itself."""
    return getattr(module, "_orig_mod", module)
