# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The engine that runs in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from attnpatch.studies.engines.job import Job, Unit, Worker
from attnpatch.studies.results.records import Record

__all__ = ["Here"]


class Here:
    """Runs piece after piece in this process, on the model's own device."""

    def __init__(self) -> None:
        self._worker: tuple[Job, Worker] | None = None

    def run(
        self, job: Job, units: Sequence[Unit], on_step: Callable[[int], None]
    ) -> Iterator[list[Record]]:
        """Yield the records of each batch that is done."""
        if self._worker is None or self._worker[0] is not job:
            self._worker = job, Worker(job, on_step=on_step)
        for unit in units:
            yield from self._worker[1].run(unit)
