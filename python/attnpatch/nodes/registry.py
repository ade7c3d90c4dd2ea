# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""All nodes of the pack. Each module gives its own; another system adds a line here."""

from __future__ import annotations

from attnpatch.nodes import (
    attention,
    guidance,
    instantid,
    normalized_attention,
    prompts,
    reference_strength,
    report,
    sweep,
    sweep_results,
    token_reduction,
)
from attnpatch.nodes.ipadapter import (
    embeds,
    face_prompts,
    image_prompts,
    loading,
    params,
    picture_prompts,
    styles,
    tiled,
    weights,
)
from attnpatch.nodes.spec import NodeSpec

__all__ = ["NODES"]

_MODULES = (
    loading,
    image_prompts,
    styles,
    tiled,
    face_prompts,
    params,
    embeds,
    picture_prompts,
    weights,
    instantid,
    token_reduction,
    guidance,
    normalized_attention,
    attention,
    reference_strength,
    prompts,
    report,
    sweep,
    sweep_results,
)

NODES: tuple[NodeSpec, ...] = tuple(spec for module in _MODULES for spec in module.NODES)
