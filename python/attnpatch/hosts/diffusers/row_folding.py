# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of a call that are equal: the UNet computes one of them, and all get what it gave."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from attnpatch.engine import SamplingPoint
from attnpatch.hosts.diffusers.guidance import take_arguments, take_rows
from attnpatch.hosts.host_call import Rows

__all__ = ["FoldedCall", "Folding", "fold_call", "folded_rows"]

Folding = Callable[[SamplingPoint, tuple[int, int]], Sequence[int]]
"""For each latent of a call the first one that is equal to it, at a point and a size."""


@dataclasses.dataclass(frozen=True)
class FoldedCall:
    """A call with those rows alone that differ.

    Parameters
    ----------
    args, kwargs
        What the UNet is given.
    rows
        What these rows are; `samples` says which picture of the whole batch each is.
    places
        For each row of the whole call the row here that is equal to it.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    rows: Rows
    places: tuple[int, ...]

    def unfold(self, output: Any) -> Any:
        """Return an output with all rows of the whole call."""
        if isinstance(output, tuple):
            return (take_rows(output[0], self.places), *output[1:])
        return dataclasses.replace(output, sample=take_rows(output.sample, self.places))


def fold_call(
    folding: Folding,
    rows: Rows,
    points: Sequence[SamplingPoint],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> FoldedCall | None:
    """Leave out rows that are equal to others; None: there are none, or nobody can tell.

    Whatever the folding says, rows whose latents differ are never taken for equal.
    """
    sample: Tensor = args[0] if args else kwargs["sample"]
    whole = len(rows.roles) == sample.shape[0] and rows.samples is None and rows.latents is None
    if len(points) != 1 or not whole or rows.aside or rows.split:
        return None
    firsts = list(folding(points[0], (int(sample.shape[-2]), int(sample.shape[-1]))))
    if len(firsts) != max(rows.slots) + 1:
        raise ValueError(
            f"folding: expected one for each of the {max(rows.slots) + 1} latents, got "
            f"{len(firsts)}"
        )
    of_slot = _rows_of_slots(rows)
    firsts = _with_equal_latents(firsts, sample, of_slot)
    kept = sorted(set(firsts))
    if len(kept) == len(firsts):
        return None
    sources = [row for row, slot in enumerate(rows.slots) if slot in kept]
    numbers = {slot: number for number, slot in enumerate(kept)}
    place_of = {row: place for place, row in enumerate(sources)}
    places = tuple(
        place_of[of_slot[firsts[slot]][of_slot[slot].index(row)]]
        for row, slot in enumerate(rows.slots)
    )
    folded = Rows(
        roles=tuple(rows.roles[row] for row in sources),
        slots=tuple(numbers[rows.slots[row]] for row in sources),
        samples=tuple(rows.slots[row] for row in sources),
        crops=tuple(rows.crops[row] for row in sources) if rows.crops else (),
        read=rows.read,
        latents=len(firsts),
    )
    batch = len(rows.roles)
    frames = int(sample.shape[2]) if sample.ndim == 5 else 1
    taken = (take_arguments(value, sources, batch, frames) for value in (args, dict(kwargs)))
    return FoldedCall(*taken, folded, places)


def _rows_of_slots(rows: Rows) -> dict[int, list[int]]:
    """Return the rows of each latent, in order."""
    found: dict[int, list[int]] = {}
    for row, slot in enumerate(rows.slots):
        found.setdefault(slot, []).append(row)
    return found


def _with_equal_latents(
    firsts: Sequence[int], sample: Tensor, of_slot: Mapping[int, Sequence[int]]
) -> list[int]:
    """Let latents stand for themselves that are not what they are said to be equal to."""
    folded = [slot for slot, first in enumerate(firsts) if slot != first]
    if not folded:
        return list(firsts)
    own = take_rows(sample, [of_slot[slot][0] for slot in folded])
    other = take_rows(sample, [of_slot[firsts[slot]][0] for slot in folded])
    same = (own == other).flatten(1).all(dim=1).tolist()
    found = list(firsts)
    for slot, equal in zip(folded, same, strict=True):
        found[slot] = firsts[slot] if equal else slot
    return found


@contextmanager
def folded_rows(patched: Any, folding: Folding) -> Iterator[None]:
    """While this runs, calls of a patched UNet compute one of each set of equal rows.

    Parameters
    ----------
    patched
        What is attached to the UNet.
    folding
        Asked once a call, in the order of the calls.
    """
    patched.folding = folding
    try:
        yield
    finally:
        patched.folding = None
