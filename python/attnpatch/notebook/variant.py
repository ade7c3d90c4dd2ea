# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A stack with some parameters changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from attnpatch.engine import Patch, PatchStack, Weight
from attnpatch.notebook.masks import box_mask, drawn_mask
from attnpatch.patches import ImagePrompt

__all__ = ["Box", "Change", "Drawn", "Value", "apply", "changed_patch"]


@dataclass(frozen=True)
class Box:
    """The numbers of a ``box_mask``."""

    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0
    soft: float = 0.0

    def __repr__(self) -> str:
        edges = ", ".join(f"{v:g}" for v in (self.left, self.top, self.right, self.bottom))
        return f"box_mask({edges}{f', soft={self.soft:g}' if self.soft else ''})"

    def mask(self) -> Tensor:
        """Make the mask."""
        return box_mask(self.left, self.top, self.right, self.bottom, soft=self.soft)


@dataclass(frozen=True)
class Drawn:
    """The text of a ``drawn_mask``."""

    text: str

    def __repr__(self) -> str:
        return f"drawn_mask({self.text!r})"

    def mask(self) -> Tensor:
        """Make the mask."""
        return drawn_mask(self.text)


Value = bool | float | str | Box | Drawn | None


@dataclass(frozen=True)
class Change:
    """What is changed in one patch.

    Parameters
    ----------
    values : mapping of str
        New values by name: numbers, of a ``Weight`` its scale; words; ``mask``: a `Box`, a `Drawn`
        or None.
    on : bool
        Whether the patch stays in the stack.
    """

    values: Mapping[str, Value]
    on: bool = True


def apply(stack: Sequence[Patch], changes: Sequence[Change]) -> PatchStack:
    """Make the changed stack; what is not changed is shared, keys and values too."""
    pairs = zip(stack, changes, strict=True)
    return PatchStack(changed_patch(patch, change.values) for patch, change in pairs if change.on)


def changed_patch(patch: Patch, values: Mapping[str, Value]) -> Patch:
    """Make a patch with other values; itself where there are none."""
    changes: dict[str, object] = {}
    for name, value in values.items():
        before = getattr(patch, name)
        if isinstance(value, Box | Drawn):
            changes[name] = value.mask()
        elif isinstance(before, Weight) and isinstance(value, float | int):
            changes[name] = replace(before, scale=value)
        else:
            changes[name] = value
    if not changes:
        return patch
    if isinstance(patch, ImagePrompt):
        return patch.replace(**changes)
    return replace(patch, **changes)  # type: ignore[type-var]
