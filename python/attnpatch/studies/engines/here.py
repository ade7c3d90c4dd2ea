# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The engine that runs in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from attnpatch.studies.engines.job import Job, Pool, Task, TaskPool, Unit, Worker
from attnpatch.studies.results.records import Record

__all__ = ["Here"]


class Here:
    """Runs piece after piece in this process, on the model's own device."""

    @contextmanager
    def open(self, job: Job, on_step: Callable[[int], None]) -> Iterator[Pool]:
        """Give the one worker."""
        yield _Pool(Worker(job, on_step=on_step))


class _Pool(TaskPool):
    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def work(self, task: Task, units: Sequence[Unit]) -> Iterator[list[Record]]:
        """Do piece after piece."""
        for unit in units:
            yield from self._worker.work(task, unit)
