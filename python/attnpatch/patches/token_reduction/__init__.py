# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Patches that give self-attention fewer tokens."""

from attnpatch.patches.token_reduction.hyper_tile import HyperTile
from attnpatch.patches.token_reduction.merging import TokenMerging
from attnpatch.patches.token_reduction.near_sighted import NearSightedAttention, NearSightedTile
from attnpatch.patches.token_reduction.pooling import reduce_tokens
from attnpatch.patches.token_reduction.slothful import SlothfulAttention

__all__ = [
    "HyperTile",
    "NearSightedAttention",
    "NearSightedTile",
    "SlothfulAttention",
    "TokenMerging",
    "reduce_tokens",
]
