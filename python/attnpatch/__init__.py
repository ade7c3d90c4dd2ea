# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Attention patches for diffusion UNets: one C++ engine, every host."""

from importlib.metadata import version as _version

from attnpatch.adapters import (
    ImageAdapter,
    ImageEmbeds,
    get_identity_embeds,
    load_embeds,
    load_image_adapter,
)
from attnpatch.attention_pictures import show_attention
from attnpatch.hosts import attach, identity_control, patch_model, recorded_attention, report
from attnpatch.patches import (
    HyperTile,
    Identity,
    ImagePrompt,
    NearSightedAttention,
    NearSightedTile,
    PatchStack,
    PerturbedAttentionGuidance,
    SelfAttentionGuidance,
    SlothfulAttention,
    SmoothedEnergyGuidance,
    TokenMerging,
    Weight,
    reduce_tokens,
    regions,
    sag_blur,
)

__version__ = _version("attnpatch")

__all__ = [
    "HyperTile",
    "Identity",
    "ImageAdapter",
    "ImageEmbeds",
    "ImagePrompt",
    "NearSightedAttention",
    "NearSightedTile",
    "PatchStack",
    "PerturbedAttentionGuidance",
    "SelfAttentionGuidance",
    "SlothfulAttention",
    "SmoothedEnergyGuidance",
    "TokenMerging",
    "Weight",
    "attach",
    "get_identity_embeds",
    "identity_control",
    "load_embeds",
    "load_image_adapter",
    "patch_model",
    "recorded_attention",
    "reduce_tokens",
    "regions",
    "report",
    "sag_blur",
    "show_attention",
]
