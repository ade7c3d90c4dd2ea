# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Patches: immutable values that say what attention layers compute besides their text."""

from attnpatch.patches.branches import Branches
from attnpatch.patches.guidance import DegradedPass, Guidance, degraded_passes, guide
from attnpatch.patches.guidance_attention import (
    PerturbedAttentionGuidance,
    SmoothedEnergyGuidance,
)
from attnpatch.patches.guidance_blocks import find_blocks
from attnpatch.patches.guidance_record import Area, AttentionRecord, CallRecord
from attnpatch.patches.guidance_sag import SelfAttentionGuidance, sag_blur
from attnpatch.patches.identity import Identity
from attnpatch.patches.image_prompt import ImagePrompt
from attnpatch.patches.layers import (
    Layer,
    LayerTable,
    diffusers_layer_table,
    layer_table,
    make_layer_table,
    token_grid,
)
from attnpatch.patches.masks import resize_mask
from attnpatch.patches.overlap import regions, resolve_overlaps
from attnpatch.patches.patch import BoundPatch, Branch, Patch
from attnpatch.patches.report import Report, Skip
from attnpatch.patches.run import CrossPlan, Run
from attnpatch.patches.self_attention import Inner, SelfAttention, Stage
from attnpatch.patches.site import COND, UNCOND, Call, Crop, SamplingPoint, Site
from attnpatch.patches.stack import PatchStack
from attnpatch.patches.token_reduction import (
    HyperTile,
    NearSightedAttention,
    NearSightedTile,
    SlothfulAttention,
    TokenMerging,
    reduce_tokens,
)
from attnpatch.patches.weight_types import WEIGHT_TYPES, split_by_weight_type
from attnpatch.patches.weights import Weight, weight_presets

__all__ = [
    "COND",
    "UNCOND",
    "WEIGHT_TYPES",
    "Area",
    "AttentionRecord",
    "BoundPatch",
    "Branch",
    "Branches",
    "Call",
    "CallRecord",
    "Crop",
    "CrossPlan",
    "DegradedPass",
    "Guidance",
    "HyperTile",
    "Identity",
    "ImagePrompt",
    "Inner",
    "Layer",
    "LayerTable",
    "NearSightedAttention",
    "NearSightedTile",
    "Patch",
    "PatchStack",
    "PerturbedAttentionGuidance",
    "Report",
    "Run",
    "SamplingPoint",
    "SelfAttention",
    "SelfAttentionGuidance",
    "Site",
    "Skip",
    "SlothfulAttention",
    "SmoothedEnergyGuidance",
    "Stage",
    "TokenMerging",
    "Weight",
    "degraded_passes",
    "diffusers_layer_table",
    "find_blocks",
    "guide",
    "layer_table",
    "make_layer_table",
    "reduce_tokens",
    "regions",
    "resize_mask",
    "resolve_overlaps",
    "sag_blur",
    "split_by_weight_type",
    "token_grid",
    "weight_presets",
]
