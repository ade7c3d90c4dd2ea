# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""The demo's short table."""

from __future__ import annotations

from collections.abc import Sequence


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align columns: the first to the left, the others to the right, under a ruled head.

    Raises
    ------
    ValueError
        When a row has another number of cells than the head.
    """
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"rows: expected {len(head)} cells, got {len(row)} in {row!r}")
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        rest = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
        return "  ".join([first, *rest]).rstrip()

    ruler = "  ".join("─" * width for width in widths)
    return "\n".join([line(head), ruler, *(line(row) for row in rows)])
