# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Attention patches for diffusion UNets: one C++ engine, every host."""

from importlib.metadata import version as _version

__version__ = _version("attnpatch")
