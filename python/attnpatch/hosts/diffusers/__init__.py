# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Pipelines and UNets of diffusers: SD1.x, SD2.x, SDXL and others of that structure."""

from attnpatch.hosts.diffusers.attach import (
    Attachment,
    attach,
    attached,
    detach,
    fold_rows,
    layers_of,
    patch_model,
    recorded_attention,
    report,
)
from attnpatch.hosts.diffusers.identity_control import identity_control
from attnpatch.hosts.diffusers.sharing import share_weights
from attnpatch.hosts.diffusers.unet.layers import read_layer_table

__all__ = [
    "Attachment",
    "attach",
    "attached",
    "detach",
    "fold_rows",
    "identity_control",
    "layers_of",
    "patch_model",
    "read_layer_table",
    "recorded_attention",
    "report",
    "share_weights",
]
