# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""All nodes of the pack. Each module gives its own; another system adds a line here."""

from __future__ import annotations

from attnpatch.nodes import (
    attention,
    guidance,
    image_prompts,
    image_prompts_embeds,
    image_prompts_faces,
    image_prompts_loading,
    image_prompts_params,
    image_prompts_pictures,
    image_prompts_styles,
    image_prompts_tiled,
    image_prompts_weights,
    instantid,
    report,
    token_reduction,
)
from attnpatch.nodes.spec import NodeSpec

__all__ = ["NODES"]

_MODULES = (
    image_prompts_loading,
    image_prompts,
    image_prompts_styles,
    image_prompts_tiled,
    image_prompts_faces,
    image_prompts_params,
    image_prompts_embeds,
    image_prompts_pictures,
    image_prompts_weights,
    instantid,
    token_reduction,
    guidance,
    attention,
    report,
)

NODES: tuple[NodeSpec, ...] = tuple(spec for module in _MODULES for spec in module.NODES)
