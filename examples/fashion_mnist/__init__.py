# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Trains the demo's networks on Fashion-MNIST, and judges them."""
