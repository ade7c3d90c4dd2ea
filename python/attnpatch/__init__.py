# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Attention patches for diffusion models: one engine, every host."""

from importlib import import_module as _import_module
from importlib.metadata import version as _version
from typing import Any as _Any

from attnpatch import vision
from attnpatch.adapters import (
    ImageAdapter,
    ImageEmbeds,
    get_identity_embeds,
    load_embeds,
    load_image_adapter,
)
from attnpatch.engine import Call, Patch, PatchStack, Report, Site, Weight
from attnpatch.hosts import (
    attach,
    attached,
    detach,
    identity_control,
    patch_model,
    recorded_attention,
    reference_strength,
    regional_prompts,
    report,
    word_weights,
)
from attnpatch.patches import (
    HyperTile,
    Identity,
    ImagePrompt,
    KeyGain,
    NearSightedAttention,
    NearSightedTile,
    NormalizedAttentionGuidance,
    PerturbedAttentionGuidance,
    ReferenceKeys,
    SelfAttentionGuidance,
    SlothfulAttention,
    SmoothedEnergyGuidance,
    TextKeys,
    TokenMerging,
    reduce_tokens,
    regions,
    sag_blur,
    show_attention,
)

__version__ = _version("attnpatch")

__all__ = [
    "Call",
    "HyperTile",
    "Identity",
    "ImageAdapter",
    "ImageEmbeds",
    "ImagePrompt",
    "KeyGain",
    "NearSightedAttention",
    "NearSightedTile",
    "NormalizedAttentionGuidance",
    "Patch",
    "PatchStack",
    "PerturbedAttentionGuidance",
    "ReferenceKeys",
    "Report",
    "SelfAttentionGuidance",
    "Site",
    "SlothfulAttention",
    "SmoothedEnergyGuidance",
    "TextKeys",
    "TokenMerging",
    "Weight",
    "attach",
    "attached",
    "detach",
    "get_identity_embeds",
    "identity_control",
    "load_embeds",
    "load_image_adapter",
    "patch_model",
    "recorded_attention",
    "reduce_tokens",
    "reference_strength",
    "regional_prompts",
    "regions",
    "report",
    "sag_blur",
    "show_attention",
    "vision",
    "word_weights",
]

# Imported when first asked for: they need OpenCV's extension module, or are a host's alone.
_LAZY = ("display", "faces", "nodes", "notebook", "studies")
# Names of modules that few programs need.
_LAZY_NAMES = {
    "Axes": "studies.axes",
    "Study": "studies.study",
    "explore": "notebook",
    "load_study": "studies.results.loading",
    "run_study": "studies.run",
    "stack_from_png": "studies.results.stacks",
}


def __getattr__(name: str) -> _Any:
    if name in _LAZY:
        return _import_module(f"{__name__}.{name}")
    if name in _LAZY_NAMES:
        return getattr(_import_module(f"{__name__}.{_LAZY_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, *_LAZY_NAMES})
