# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What a stack of patches found in a model."""

from __future__ import annotations

from dataclasses import dataclass

from attnpatch._core import Layer
from attnpatch.engine.joint_layers import JointLayer
from attnpatch.shown import Shown

__all__ = ["Report", "Skip"]


@dataclass(frozen=True)
class Skip:
    """A layer at which a patch never acts."""

    layer: Layer | JointLayer
    patch: int
    """Its place in the stack."""
    reason: str


@dataclass(frozen=True)
class Report(Shown):
    """What a stack found in a model."""

    wanted: tuple[Layer | JointLayer, ...]
    """The layers that the patches are made for."""
    matched: tuple[Layer | JointLayer, ...]
    """Those at which at least one of them acts, now or in another part of sampling."""
    skipped: tuple[Skip, ...]
    """Where a patch does not act, and why."""
    nbytes: int
    """Bytes of the patches' tensors."""
    unpatched: tuple[str, ...] = ()
    """Other denoisers that the pipeline holds and that have no patches, with their types."""
    spans: tuple[str, ...] = ()
    """In joint attention what the tokens of a call may be: text, image, reference, padding."""
    patches: tuple[str, ...] = ()
    """What the patches are called, in order."""

    _shown_by = "report"

    def __str__(self) -> str:
        lines = [
            f"{len(self.matched)} of {len(self.wanted)} layers patched, "
            f"{self.nbytes / 1e6:.1f} MB kept"
        ]
        groups: dict[tuple[int, str], list[str]] = {}
        for skip in self.skipped:
            groups.setdefault((skip.patch, skip.reason), []).append(skip.layer.name)
        for (patch, reason), names in groups.items():
            shown = ", ".join(names[:2]) + (", …" if len(names) > 2 else "")
            lines.append(f"patch {patch} skips {len(names)}: {reason} ({shown})")
        if self.spans:
            lines.append(f"its tokens: {', '.join(self.spans)}")
        if self.unpatched:
            lines.append(f"not patched: {', '.join(self.unpatched)}")
        return "\n".join(lines)
