# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The operators, as functions of tensors: kernels on the CPU, readable references elsewhere."""

from attnpatch.ops.branch_attention import branch_attention, branch_attention_reference

__all__ = ["branch_attention", "branch_attention_reference"]
