# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Guidance: SAG, PAG and SEG by a degraded pass, NAG; and pictures of what attention looked at."""

from attnpatch.patches.guidance.blocks import find_blocks
from attnpatch.patches.guidance.guidance import DegradedPass, Guidance, degraded_passes, guide
from attnpatch.patches.guidance.heat_map import show_attention
from attnpatch.patches.guidance.normalized_attention import NormalizedAttentionGuidance
from attnpatch.patches.guidance.pag_seg import PerturbedAttentionGuidance, SmoothedEnergyGuidance
from attnpatch.patches.guidance.record import Area, AttentionRecord, CallRecord
from attnpatch.patches.guidance.sag import SelfAttentionGuidance, sag_blur

__all__ = [
    "Area",
    "AttentionRecord",
    "CallRecord",
    "DegradedPass",
    "Guidance",
    "NormalizedAttentionGuidance",
    "PerturbedAttentionGuidance",
    "SelfAttentionGuidance",
    "SmoothedEnergyGuidance",
    "degraded_passes",
    "find_blocks",
    "guide",
    "sag_blur",
    "show_attention",
]
