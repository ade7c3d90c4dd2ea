# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes of image prompts, by the names and settings of ComfyUI_IPAdapter_plus."""
