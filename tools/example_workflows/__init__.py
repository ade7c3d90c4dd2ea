# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The example workflows for ComfyUI: what they hold, and how they are written."""
