# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What an engine is given, and what each of its workers does with it."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from attnpatch.studies.build import SharedPatches
from attnpatch.studies.cells import Cell
from attnpatch.studies.measures import Measure
from attnpatch.studies.models import Model, load_model
from attnpatch.studies.results.png import open_picture
from attnpatch.studies.results.records import Record, picture_name
from attnpatch.studies.results.store import Store
from attnpatch.studies.runner import Runner
from attnpatch.studies.table import Table

__all__ = ["Engine", "Job", "Pool", "Task", "TaskPool", "Unit", "Worker", "WorkerLost", "left_of"]

Unit = tuple[Cell, ...]
Task = Literal["check", "run"]
"""What a worker does with cells: make sure that they fit the model, or make their pictures."""
logger = logging.getLogger("attnpatch")
_KEPT = 256  # unpatched pictures that a worker remembers
ATTEMPTS = 4
"""How often a piece of work is begun, where its workers are lost."""


class WorkerLost(RuntimeError):
    """A piece of work lost its worker too often."""


@dataclass(frozen=True)
class Job:
    """What all workers of a sweep have in common.

    Parameters
    ----------
    model
        ``Study.model``; or a loaded model, for this process alone.
    location
        Where results go.
    rows
        The most rows of a batch; None: as many as memory allows.
    measures
        Functions of the user.
    """

    model: Table | Model
    location: str
    rows: int | None = None
    measures: Mapping[str, Measure] = field(default_factory=dict)


class Pool(Protocol):
    """The workers of one job."""

    def check(self, cells: Unit) -> None:
        """Load the model in one worker, and make sure that all cells fit it.

        Raises
        ------
        OSError, TypeError, ValueError
            Naming the parameter that is wrong.
        """
        ...

    def run(self, units: Sequence[Unit]) -> Iterator[list[Record]]:
        """Yield the records of each batch that is done; pieces in any order."""
        ...


class TaskPool(ABC):
    """A pool whose workers take both tasks alike."""

    @abstractmethod
    def work(self, task: Task, units: Sequence[Unit]) -> Iterator[list[Record]]:
        """Hand out pieces, and yield the records of each batch that is done, as they come."""

    def check(self, cells: Unit) -> None:
        """Load the model in one worker, and make sure that all cells fit it."""
        for _ in self.work("check", [cells]):
            pass

    def run(self, units: Sequence[Unit]) -> Iterator[list[Record]]:
        """Yield the records of each batch that is done; pieces in any order."""
        return self.work("run", units)


class Engine(Protocol):
    """Runs pieces of work somewhere."""

    def open(self, job: Job, on_step: Callable[[int], None]) -> AbstractContextManager[Pool]:
        """Give the workers of a job, which end with the context.

        Parameters
        ----------
        job
            See there.
        on_step
            Called after each step of a batch with the number of its cells.
        """
        ...


class Worker:
    """Holds a model, and makes and writes the pictures of pieces of work.

    Parameters
    ----------
    job
        See there.
    device
        In place of the study's own.
    on_step
        Called after each step of a batch with the number of its cells.
    shared
        What encoded pictures are shared with other workers by.
    """

    def __init__(
        self,
        job: Job,
        device: str | None = None,
        on_step: Callable[[int], None] | None = None,
        shared: SharedPatches | None = None,
    ) -> None:
        self._job = job
        self._shared = shared
        self._device = device
        self._on_step = on_step
        self._store = Store(job.location)
        self._runner: Runner | None = None
        self._unpatched: dict[str, npt.NDArray[np.uint8]] = {}

    @property
    def runner(self) -> Runner:
        """What runs cells; the model is loaded for the first one who asks."""
        if self._runner is None:
            given = self._job.model
            self._runner = Runner(
                load_model(given, self._device) if isinstance(given, Table) else given,
                rows=self._job.rows,
                measures=self._job.measures,
                on_step=self._on_step,
                shared=self._shared,
            )
        return self._runner

    def work(self, task: Task, unit: Sequence[Cell]) -> Iterator[list[Record]]:
        """Do what is asked with the cells of a piece; see ``Task``."""
        if task == "check":
            self.runner.check(unit)
        else:
            yield from self.run(unit)

    def run(self, unit: Sequence[Cell]) -> Iterator[list[Record]]:
        """Make the cells of a piece, batch by batch, and yield each batch's records."""
        runner = self.runner
        for made in runner.run(unit):
            for cell, levels in zip(made.cells, made.levels, strict=True):
                if not cell.patches:
                    self._unpatched[cell.id] = levels
            self._read_unpatched(made.cells)
            yield runner.write(made, self._store, self._unpatched)
            while len(self._unpatched) > _KEPT:
                del self._unpatched[next(iter(self._unpatched))]

    def _read_unpatched(self, cells: Sequence[Cell]) -> None:
        """Read the unpatched pictures that others made."""
        for cell in cells:
            before = cell.without_patches.id
            name = picture_name(before)
            if cell.patches and before not in self._unpatched and self._store.has(name):
                self._unpatched[before] = np.asarray(open_picture(self._store, name))


def left_of(unit: Sequence[Cell], done: set[str]) -> Unit:
    """Return the cells of a piece that are not done."""
    return tuple(cell for cell in unit if cell.id not in done)
