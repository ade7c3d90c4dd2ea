# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The model of attention that patches act on: layers, sites, edits, and stacks at work."""

from attnpatch.engine.bound_stack import BoundStack
from attnpatch.engine.branches import Branches
from attnpatch.engine.edits import AttentionWrapper, Branch, Edits, Inner
from attnpatch.engine.joint_layers import JointLayer, JointTable
from attnpatch.engine.layers import (
    Layer,
    LayerTable,
    diffusers_layer_table,
    layer_table,
    make_layer_table,
    token_grid,
)
from attnpatch.engine.masks import resize_mask
from attnpatch.engine.patch import BoundPatch, NegativeText, Patch
from attnpatch.engine.plan import Plan
from attnpatch.engine.report import Report, Skip
from attnpatch.engine.site import COND, UNCOND, Call, Crop, SamplingPoint, Site
from attnpatch.engine.site_attention import SiteAttention
from attnpatch.engine.stack import PatchStack
from attnpatch.engine.text_guide import MoreKeys, TextGuide, TextGuides
from attnpatch.engine.tokens import IMAGE, PADDING, REFERENCE, TEXT, Part, Span, Tokens, joined
from attnpatch.engine.weights import Weight, weight_presets

__all__ = [
    "COND",
    "IMAGE",
    "PADDING",
    "REFERENCE",
    "TEXT",
    "UNCOND",
    "AttentionWrapper",
    "BoundPatch",
    "BoundStack",
    "Branch",
    "Branches",
    "Call",
    "Crop",
    "Edits",
    "Inner",
    "JointLayer",
    "JointTable",
    "Layer",
    "LayerTable",
    "MoreKeys",
    "NegativeText",
    "Part",
    "Patch",
    "PatchStack",
    "Plan",
    "Report",
    "SamplingPoint",
    "Site",
    "SiteAttention",
    "Skip",
    "Span",
    "TextGuide",
    "TextGuides",
    "Tokens",
    "Weight",
    "diffusers_layer_table",
    "joined",
    "layer_table",
    "make_layer_table",
    "resize_mask",
    "token_grid",
    "weight_presets",
]
