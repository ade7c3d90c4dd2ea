# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Image adapters: reading checkpoints of every kind, and making image tokens of features."""

from attnpatch.adapters.adapter import ImageAdapter
from attnpatch.adapters.convert import convert_adapter
from attnpatch.adapters.describe import describe
from attnpatch.adapters.embeds import ImageEmbeds
from attnpatch.adapters.embeds_files import load_embeds, load_features, save_features
from attnpatch.adapters.identity import as_identity_adapter, get_identity_embeds, noise_like
from attnpatch.adapters.loading import load_image_adapter

__all__ = [
    "ImageAdapter",
    "ImageEmbeds",
    "as_identity_adapter",
    "convert_adapter",
    "describe",
    "get_identity_embeds",
    "load_embeds",
    "load_features",
    "load_image_adapter",
    "noise_like",
    "save_features",
]
