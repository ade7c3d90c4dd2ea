# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A stack of patches as a card, a part for each."""

from __future__ import annotations

from attnpatch.display.card import card, size
from attnpatch.display.markup import Markup
from attnpatch.display.patch import describe
from attnpatch.engine import PatchStack

__all__ = ["html"]


def html(stack: PatchStack) -> Markup:
    """Show a stack of patches."""
    patches = "no patches"
    if stack:
        patches = f"{len(stack)} patch{'es' if len(stack) > 1 else ''}, {size(stack.nbytes)} kept"
    parts = (describe(patch, index) for index, patch in enumerate(stack))
    return card("PatchStack", patches, *parts, plain=repr(stack))
