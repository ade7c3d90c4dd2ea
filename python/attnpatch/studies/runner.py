# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Runs cells on one model, batch by batch, and writes what they give."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from attnpatch.engine import Patch
from attnpatch.hosts.diffusers import attach, fold_rows
from attnpatch.studies.batches import join_patches
from attnpatch.studies.build import PatchMaker, SharedPatches
from attnpatch.studies.cells import Cell
from attnpatch.studies.fitting import check_fit
from attnpatch.studies.measures import Measure, distance, measured
from attnpatch.studies.memory import RowLimit
from attnpatch.studies.models import Model
from attnpatch.studies.results.png import to_levels, to_png, versions
from attnpatch.studies.results.records import Record, picture_name, write_records
from attnpatch.studies.results.stacks import StackWriter
from attnpatch.studies.results.store import Store
from attnpatch.studies.shared_steps import SharedSteps
from attnpatch.studies.table import plain

__all__ = ["Made", "Runner"]

# What the pictures of a batch may begin with of their own.
_STARTS = ("prompt", "negative_prompt", "seed")


class Made(NamedTuple):
    """What one batch gave."""

    cells: tuple[Cell, ...]
    pictures: npt.NDArray[Any]
    """float32 (cells, height, width, channels), 0 to 1."""
    stacks: list[list[Patch]]
    seconds: float
    shared: SharedSteps

    @property
    def levels(self) -> list[npt.NDArray[np.uint8]]:
        """The pictures in 8 bits, as they are written."""
        return [to_levels(picture) for picture in self.pictures]


class Runner:
    """Runs cells on one model.

    Parameters
    ----------
    model
        Makes the pictures.
    rows
        The most rows of a batch; None: as many as memory allows.
    measures
        Functions of the user.
    on_step
        Called after each step of a batch with the number of its cells.
    shared
        What encoded pictures are shared with other workers by.
    """

    def __init__(
        self,
        model: Model,
        *,
        rows: int | None = None,
        measures: Mapping[str, Measure] | None = None,
        on_step: Callable[[int], None] | None = None,
        shared: SharedPatches | None = None,
    ) -> None:
        self.model = model
        self.maker = PatchMaker(model, shared)
        self.limit = RowLimit(model.device, rows)
        self._measures = measures or {}
        self._on_step = on_step or (lambda cells: None)
        self._writer: tuple[Store, StackWriter] | None = None

    def check(self, cells: Iterable[Cell]) -> None:
        """Make sure that cells fit the model, before the first one runs; see ``check_fit``."""
        check_fit(self.model, self.maker, cells)

    def make(self, cells: Sequence[Cell]) -> Made:
        """Make some cells of one group in one batch, whatever memory says."""
        model = self.model
        stacks = [self.maker.patches(cell) for cell in cells]
        shared = self.shared_steps(cells, stacks)
        began = time.perf_counter()
        with (
            attach(model.pipeline, join_patches(stacks), cond_or_uncond=model.cond_or_uncond),
            fold_rows(model.pipeline, shared),
        ):
            pictures = model.generate(cells, lambda: self._on_step(len(cells)))
        seconds = time.perf_counter() - began
        return Made(tuple(cells), pictures, stacks, seconds, shared)

    @staticmethod
    def shared_steps(cells: Sequence[Cell], stacks: Sequence[Sequence[Patch]]) -> SharedSteps:
        """Return what follows the cells of a batch, and says which of them are equal so far."""
        starts = [tuple(cell.argument(name) for name in _STARTS) for cell in cells]
        return SharedSteps(starts, stacks)

    def run(self, cells: Sequence[Cell]) -> Iterator[Made]:
        """Make cells of one group in batches as large as memory allows."""
        left = list(cells)
        while left:
            count = self.limit.next(len(left))
            try:
                with self.limit.measured(count):
                    made = self.make(left[:count])
            except torch.OutOfMemoryError:
                if not self.limit.halve(count):
                    raise
                continue
            del left[:count]
            yield made

    def write(
        self, made: Made, store: Store, unpatched: Mapping[str, npt.NDArray[np.uint8]]
    ) -> list[Record]:
        """Write a batch's pictures, then its records.

        Parameters
        ----------
        made
            What ``run`` gave.
        store
            Where to.
        unpatched
            The pictures without patches that are known, by their cells' ids.

        Raises
        ------
        ValueError
            Where a measure of the user fails, once all is written.
        """
        if self._writer is None or self._writer[0] is not store:
            self._writer = store, StackWriter(store)
        writer = self._writer[1]
        levels = made.levels
        similarities = self._similarities(made.cells, levels)
        steps = self.model.steps(made.cells[0])
        records = []
        failed: ValueError | None = None
        for place, cell in enumerate(made.cells):
            values, error = measured(self._measures, levels[place], cell)
            failed = failed or error
            record: Record = {
                "id": cell.id,
                "place": plain(cell.place),
                "pipeline": plain(cell.pipeline),
                "patched": bool(cell.patches),
                "file": picture_name(cell.id),
                "seconds_per_step": made.seconds / steps / len(made.cells),
                "rows": len(made.cells),
                "steps": steps,
                "measures": values,
            }
            if (similarity := similarities[place]) is not None:
                record["measures"]["similarity"] = similarity
            before = unpatched.get(cell.without_patches.id)
            if cell.patches and before is not None:
                record["measures"]["distance"] = distance(levels[place], before)
            stack = writer.to_json(made.stacks[place])
            metadata = {
                "cell": cell.description,
                "adapters": self.maker.adapters(cell),
                "stack": stack,
                "record": record,
                "versions": versions(),
            }
            store.write(record["file"], to_png(levels[place], metadata))
            records.append(record)
        write_records(store, records)
        if failed is not None:
            raise failed
        return records

    def _similarities(
        self, cells: Sequence[Cell], levels: Sequence[npt.NDArray[np.uint8]]
    ) -> list[float | None]:
        shown = ((place, self.maker.reference(cell)) for place, cell in enumerate(cells))
        references = {place: one for place, one in shown if one is not None}
        found: list[float | None] = [None] * len(cells)
        if not references:
            return found
        pictures = [Image.fromarray(levels[place]) for place in references]
        values = self.model.similarity(pictures, list(references.values()))
        for place, value in zip(references, values or (), strict=False):
            found[place] = value
        return found
