# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Patches: immutable values that say what attention layers compute besides their text."""

from attnpatch.patches.guidance import (
    Area,
    AttentionRecord,
    CallRecord,
    DegradedPass,
    Guidance,
    NormalizedAttentionGuidance,
    PerturbedAttentionGuidance,
    SelfAttentionGuidance,
    SmoothedEnergyGuidance,
    degraded_passes,
    find_blocks,
    guide,
    sag_blur,
    show_attention,
)
from attnpatch.patches.image_prompt import (
    WEIGHT_TYPES,
    Identity,
    ImagePrompt,
    join_rows,
    joint_key,
    regions,
    resolve_overlaps,
    split_by_weight_type,
)
from attnpatch.patches.key_gain import KeyGain, ReferenceKeys, TextKeys
from attnpatch.patches.token_reduction import (
    HyperTile,
    NearSightedAttention,
    NearSightedTile,
    SlothfulAttention,
    TokenMerging,
    reduce_tokens,
)

__all__ = [
    "WEIGHT_TYPES",
    "Area",
    "AttentionRecord",
    "CallRecord",
    "DegradedPass",
    "Guidance",
    "HyperTile",
    "Identity",
    "ImagePrompt",
    "KeyGain",
    "NearSightedAttention",
    "NearSightedTile",
    "NormalizedAttentionGuidance",
    "PerturbedAttentionGuidance",
    "ReferenceKeys",
    "SelfAttentionGuidance",
    "SlothfulAttention",
    "SmoothedEnergyGuidance",
    "TextKeys",
    "TokenMerging",
    "degraded_passes",
    "find_blocks",
    "guide",
    "join_rows",
    "joint_key",
    "reduce_tokens",
    "regions",
    "resolve_overlaps",
    "sag_blur",
    "show_attention",
    "split_by_weight_type",
]
