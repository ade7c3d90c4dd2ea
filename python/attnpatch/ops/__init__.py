# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The operators, as functions of tensors: kernels on the CPU, readable references elsewhere."""

from attnpatch.ops.attention_column_mean import (
    attention_column_mean,
    attention_column_mean_reference,
)
from attnpatch.ops.biased_attention import biased_attention, biased_attention_reference
from attnpatch.ops.blur_and_blend import blur_and_blend, blur_and_blend_reference
from attnpatch.ops.branch import Branch, branch_attention
from attnpatch.ops.branch_attention import branch_attention_reference
from attnpatch.ops.pool_tokens import pool_tokens, pool_tokens_reference
from attnpatch.ops.tile_attention import tile_attention, tile_attention_reference
from attnpatch.ops.tiling import Tiling

__all__ = [
    "Branch",
    "Tiling",
    "attention_column_mean",
    "attention_column_mean_reference",
    "biased_attention",
    "biased_attention_reference",
    "blur_and_blend",
    "blur_and_blend_reference",
    "branch_attention",
    "branch_attention_reference",
    "pool_tokens",
    "pool_tokens_reference",
    "tile_attention",
    "tile_attention_reference",
]
