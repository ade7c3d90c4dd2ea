# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What is run, in which pieces: the cells of a study, and each picture once more unpatched."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from attnpatch.studies.batches import group_cells, units
from attnpatch.studies.cells import Cell

__all__ = ["UNIT", "Plan", "make_plan", "with_unpatched"]

UNIT = 64
"""The most cells that a worker gets at once."""


class Plan(NamedTuple):
    """Pieces of work: cells of one group each.

    Attributes
    ----------
    first : list of tuples of Cell
        Unpatched pictures that cells of several pieces are measured against.
    then : list of tuples of Cell
        All else; pieces in any order.
    """

    first: list[tuple[Cell, ...]]
    then: list[tuple[Cell, ...]]

    @property
    def cells(self) -> int:
        """How many cells there are in all."""
        return sum(map(len, (*self.first, *self.then)))


def with_unpatched(cells: Sequence[Cell]) -> list[Cell]:
    """Return cells, and those without patches that they are measured against, each once."""
    found = {cell.id: cell for cell in cells}
    for cell in cells:
        plain = cell.without_patches
        found.setdefault(plain.id, plain)
    return list(found.values())


def make_plan(cells: Sequence[Cell], done: Collection[str] = (), size: int = UNIT) -> Plan:
    """Plan what is left of some cells.

    Parameters
    ----------
    cells
        All cells, unpatched ones among them.
    done
        The ids of those that are done.
    size
        The most cells of a piece.
    """
    left = [cell for cell in cells if cell.id not in done]
    pieces = units(group_cells(left), size)
    homes: dict[str, set[int]] = {}
    for number, piece in enumerate(pieces):
        for cell in piece:
            if cell.patches:
                homes.setdefault(cell.without_patches.id, set()).add(number)
    first, then = [], []
    for number, piece in enumerate(pieces):
        # An unpatched picture comes along with its cells where these are in one piece.
        apart = [c for c in piece if not c.patches and homes.get(c.id, {number}) != {number}]
        first += apart
        then.append(tuple(cell for cell in piece if cell not in apart))
    return Plan(units(group_cells(first), size), [piece for piece in then if piece])
