# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Fooocus: `ip_adapter` stands in for the host's own ``extras/ip_adapter.py``."""
