# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A picture that one paints a mask on, and a button that copies a text."""

from __future__ import annotations

from pathlib import Path

import anywidget
import traitlets

from attnpatch.notebook.masks import SIDE

__all__ = ["CopyButton", "MaskCanvas"]

_HERE = Path(__file__).parent


class MaskCanvas(anywidget.AnyWidget):
    """Paints a mask of 64 × 64 cells over a picture."""

    _esm = (_HERE / "canvas.js").read_text(encoding="utf-8")
    side = traitlets.Int(SIDE).tag(sync=True)
    picture = traitlets.Unicode("").tag(sync=True)
    """The address of what is under the paint."""
    levels = traitlets.Bytes(b"").tag(sync=True, from_json=lambda held, _: bytes(held))
    """0 to 255 for each cell, row by row; empty: nothing was painted yet."""

    @traitlets.validate("levels")
    def _check(self, proposal: traitlets.Bunch) -> bytes:
        levels = bytes(proposal["value"])
        if len(levels) not in (0, SIDE * SIDE):
            raise traitlets.TraitError(
                f"levels: expected {SIDE * SIDE} bytes or none, got {len(levels)}"
            )
        return levels


class CopyButton(anywidget.AnyWidget):
    """A button that puts a text on the clipboard."""

    _esm = (_HERE / "copy_button.js").read_text(encoding="utf-8")
    text = traitlets.Unicode("").tag(sync=True)
