# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""All nodes of the pack: one module for each system gives its own."""

from __future__ import annotations

from attnpatch.nodes import image_prompts, image_prompts_loading, report
from attnpatch.nodes.spec import NodeSpec

__all__ = ["NODES"]

NODES: tuple[NodeSpec, ...] = (
    *image_prompts_loading.NODES,
    *image_prompts.NODES,
    *report.NODES,
)
