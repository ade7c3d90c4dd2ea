# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Interactive cells for notebooks."""

from attnpatch.notebook.explore import explore
from attnpatch.notebook.masks import box_mask, drawn_mask

__all__ = ["box_mask", "drawn_mask", "explore"]
