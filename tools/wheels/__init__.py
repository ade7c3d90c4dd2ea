# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Self-contained wheels and the sdist: building and checking them (``./run wheels``)."""
