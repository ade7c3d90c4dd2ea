# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Transformers of ComfyUI: their layers, the tokens of a call, and attention in between."""
