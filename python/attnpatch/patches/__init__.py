# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Patches: immutable values that say what attention layers compute besides their text."""

from attnpatch.engine.bound_stack import BoundStack, BranchPlan
from attnpatch.engine.branches import Branches
from attnpatch.engine.layers import (
    Layer,
    LayerTable,
    diffusers_layer_table,
    layer_table,
    make_layer_table,
    token_grid,
)
from attnpatch.engine.masks import resize_mask
from attnpatch.engine.patch import BoundPatch, Branch, Patch
from attnpatch.engine.report import Report, Skip
from attnpatch.engine.site import COND, UNCOND, Call, Crop, SamplingPoint, Site
from attnpatch.engine.stack import PatchStack
from attnpatch.engine.weights import Weight, weight_presets
from attnpatch.engine.wrappers import AttentionWrapper, Inner, SelfAttention
from attnpatch.patches.guidance.blocks import find_blocks
from attnpatch.patches.guidance.guidance import DegradedPass, Guidance, degraded_passes, guide
from attnpatch.patches.guidance.pag_seg import (
    PerturbedAttentionGuidance,
    SmoothedEnergyGuidance,
)
from attnpatch.patches.guidance.record import Area, AttentionRecord, CallRecord
from attnpatch.patches.guidance.sag import SelfAttentionGuidance, sag_blur
from attnpatch.patches.image_prompt.identity import Identity
from attnpatch.patches.image_prompt.prompt import ImagePrompt
from attnpatch.patches.image_prompt.regions import regions, resolve_overlaps
from attnpatch.patches.image_prompt.weight_types import WEIGHT_TYPES, split_by_weight_type
from attnpatch.patches.token_reduction import (
    HyperTile,
    NearSightedAttention,
    NearSightedTile,
    SlothfulAttention,
    TokenMerging,
    reduce_tokens,
)

__all__ = [
    "COND",
    "UNCOND",
    "WEIGHT_TYPES",
    "Area",
    "AttentionRecord",
    "AttentionWrapper",
    "BoundPatch",
    "BoundStack",
    "Branch",
    "BranchPlan",
    "Branches",
    "Call",
    "CallRecord",
    "Crop",
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
    "SamplingPoint",
    "SelfAttention",
    "SelfAttentionGuidance",
    "Site",
    "Skip",
    "SlothfulAttention",
    "SmoothedEnergyGuidance",
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
