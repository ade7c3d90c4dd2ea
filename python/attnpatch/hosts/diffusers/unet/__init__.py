# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Attention layers of diffusers' UNets: their processors, projections and places."""
