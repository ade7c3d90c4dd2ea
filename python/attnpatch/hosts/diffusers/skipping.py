# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Guiders of diffusers that leave attention out: of whole layers, or its scores alone."""

from __future__ import annotations

from importlib import import_module

from torch.overrides import _get_current_function_mode_stack

__all__ = ["register_skipping", "scores_are_skipped"]

_MODE = "AttentionScoreSkipFunctionMode"


def register_skipping(patched: type, original: type) -> None:
    """Let guiders skip processors of ours as they skip those that these stand in for."""
    try:
        registry = import_module("diffusers.hooks._helpers").AttentionProcessorRegistry
        registry.register(patched, registry.get(original))
    except (ImportError, AttributeError, ValueError):
        pass  # this diffusers has no such guiders, or they know no such processor


def scores_are_skipped() -> bool:
    """Whether a guider has attention give its values as they are, which leaves no scores to change.

    It does so where ``scaled_dot_product_attention`` is called, by a mode of torch's functions.
    """
    modes = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    return any(type(mode).__name__ == _MODE for mode in modes)
