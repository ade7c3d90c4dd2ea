# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The operators in plain torch, with few launches and little memory traffic.

They serve every device that has no kernel of ours, and keep nothing for a backward pass. Their
arguments have been checked. Beside each stands the readable reference that tests compare it with.
"""

from attnpatch.ops.plain.attention import attention_with_lse, has_lse
from attnpatch.ops.plain.attention_column_mean import attention_column_mean, takes_scale
from attnpatch.ops.plain.biased_attention import biased_attention, padded, unpadded
from attnpatch.ops.plain.blur_and_blend import blur_and_blend, takes_kernel
from attnpatch.ops.plain.branch_attention import branch_attention
from attnpatch.ops.plain.pool_tokens import pool_tokens
from attnpatch.ops.plain.tile_attention import tile_attention

__all__ = [
    "attention_column_mean",
    "attention_with_lse",
    "biased_attention",
    "blur_and_blend",
    "branch_attention",
    "has_lse",
    "padded",
    "pool_tokens",
    "takes_kernel",
    "takes_scale",
    "tile_attention",
    "unpadded",
]
