# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A stack with some parameters changed, and the code that makes it of the one that was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from attnpatch.engine import Patch, PatchStack, Weight
from attnpatch.notebook.masks import box_mask
from attnpatch.patches import ImagePrompt

__all__ = ["Box", "Change", "apply", "as_code"]


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


@dataclass(frozen=True)
class Change:
    """What is changed in one patch.

    Parameters
    ----------
    values : mapping of str
        New values by name: numbers, of a ``Weight`` its scale; words; ``mask``: a `Box` or None.
    on : bool
        Whether the patch stays in the stack.
    """

    values: Mapping[str, Any]
    on: bool = True


def apply(stack: Sequence[Patch], changes: Sequence[Change]) -> PatchStack:
    """Make the changed stack; what is not changed is shared, keys and values too."""
    pairs = zip(stack, changes, strict=True)
    return PatchStack(_changed(patch, change.values) for patch, change in pairs if change.on)


def as_code(stack: Sequence[Patch], changes: Sequence[Change], call: str) -> str:
    """Write the code that makes the changed stack of ``stack``, and runs a call with it."""
    lines, names = [], set()
    for index, (patch, change) in enumerate(zip(stack, changes, strict=True)):
        if change.on:
            text, uses = _line(f"stack[{index}]", patch, change.values)
            lines.append(f"        {text},")
            names |= uses
    head = ["import attnpatch as ap"]
    head += ["import torch"] if "torch." in call else []
    head += ["from dataclasses import replace"] if "replace" in names else []
    head += ["from attnpatch.notebook import box_mask"] if "box_mask" in names else []
    listed = ["    [", *lines, "    ]"] if lines else ["    []"]
    return "\n".join(
        [
            *sorted(head, key=lambda line: ("attnpatch" in line, "torch" in line, line)),
            "",
            "# stack: the patches that were given to explore",
            "patches = ap.PatchStack(",
            *listed,
            ")",
            "with ap.attach(pipeline, patches):",
            f"    images = {call}",
        ]
    )


def _changed(patch: Patch, values: Mapping[str, Any]) -> Patch:
    changes = {}
    for name, value in values.items():
        before = getattr(patch, name)
        if isinstance(value, Box):
            value = box_mask(value.left, value.top, value.right, value.bottom, soft=value.soft)
        changes[name] = replace(before, scale=value) if isinstance(before, Weight) else value
    if not changes:
        return patch
    if isinstance(patch, ImagePrompt):
        return patch.replace(**changes)
    return replace(patch, **changes)  # type: ignore[type-var]


def _line(name: str, patch: Patch, values: Mapping[str, Any]) -> tuple[str, set[str]]:
    """Write one patch, and say which names that uses."""
    uses, parts = set(), []
    for key, value in values.items():
        before = getattr(patch, key)
        if isinstance(before, Weight) and before != Weight(before.scale):
            uses.add("replace")
            parts.append(f"{key}=replace({name}.{key}, scale={value!r})")
        else:
            uses |= {"box_mask"} if isinstance(value, Box) else set()
            parts.append(f"{key}={value!r}")
    if not parts:
        return name, uses
    if isinstance(patch, ImagePrompt):
        return f"{name}.replace({', '.join(parts)})", uses
    return f"replace({name}, {', '.join(parts)})", {*uses, "replace"}
