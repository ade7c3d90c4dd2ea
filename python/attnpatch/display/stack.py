# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A stack of patches as a card, a part for each."""

from __future__ import annotations

from attnpatch.display.card import card, more, part, size
from attnpatch.display.markup import Markup
from attnpatch.display.patch import describe
from attnpatch.engine import PatchStack

__all__ = ["html", "parts"]

_PATCHES = 24


def html(stack: PatchStack) -> Markup:
    """Show a stack of patches."""
    patches = "no patches"
    if stack:
        patches = f"{len(stack)} patch{'es' if len(stack) > 1 else ''}, {size(stack.nbytes)} kept"
    return card("PatchStack", patches, *parts(stack), plain=repr(stack))


def parts(stack: PatchStack) -> list[Markup]:
    """Give a part for each of the first patches."""
    found = [describe(patch, index) for index, patch in enumerate(stack[:_PATCHES])]
    return [*found, part(more(len(stack) - _PATCHES))] if len(stack) > _PATCHES else found
