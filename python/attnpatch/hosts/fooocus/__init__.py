# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Fooocus: `patch_model` for any patch; `ip_adapter` stands in for ``extras/ip_adapter.py``."""

from attnpatch.hosts.fooocus.host import attach, attached, detach, is_host, patch_model, report

__all__ = ["attach", "attached", "detach", "is_host", "patch_model", "report"]
