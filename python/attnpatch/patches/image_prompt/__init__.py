# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Image prompts and identities: attention to images beside the text."""

from attnpatch.patches.image_prompt.identity import Identity
from attnpatch.patches.image_prompt.joined import join_rows, joint_key
from attnpatch.patches.image_prompt.prompt import ImagePrompt
from attnpatch.patches.image_prompt.regions import regions, resolve_overlaps
from attnpatch.patches.image_prompt.weight_types import WEIGHT_TYPES, split_by_weight_type

__all__ = [
    "WEIGHT_TYPES",
    "Identity",
    "ImagePrompt",
    "join_rows",
    "joint_key",
    "regions",
    "resolve_overlaps",
    "split_by_weight_type",
]
