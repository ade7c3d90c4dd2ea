# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""ComfyUI, and what took over its model patcher: `patch_model` for any patch."""

from attnpatch.hosts.comfyui.guidance import recorded_attention
from attnpatch.hosts.comfyui.host import attach, attached, detach, is_host, patch_model, report

__all__ = ["attach", "attached", "detach", "is_host", "patch_model", "recorded_attention", "report"]
