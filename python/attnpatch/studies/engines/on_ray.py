# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The engine of Ray: actors hold models, the object store holds what pictures are encoded to."""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any

from attnpatch.studies.engines.job import ATTEMPTS, Job, Unit, Worker, WorkerLost, left_of, logger
from attnpatch.studies.results.records import Record, done
from attnpatch.studies.results.store import Store
from attnpatch.studies.table import Table

__all__ = ["Ray"]


class Ray:
    """Runs pieces in actors of a cluster of Ray, each with a model of its own.

    Results must go to a folder that all nodes share, or to an address that all reach. Where an
    actor or its node is lost, its piece begins again elsewhere, without the cells that are done.

    Parameters
    ----------
    workers
        How many actors; None: one for each GPU of the cluster, or without any for every four cores.
    address
        Of the cluster; None: the one that this process is in, or one on this machine.

    Raises
    ------
    ImportError
        Where Ray is not installed.
    """

    def __init__(self, workers: int | None = None, address: str | None = None) -> None:
        if workers is not None and (isinstance(workers, bool) or workers < 1):
            raise ValueError(f"workers: expected at least 1, got {workers}")
        try:
            self._ray = import_module("ray")
        except ImportError as error:
            raise ImportError(
                'ray: not installed; pip install "attnpatch[ray]" brings it'
            ) from error
        self._workers, self._address = workers, address
        self.actors: list[Any] = []
        """Those that work."""

    def run(
        self, job: Job, units: Sequence[Unit], on_step: Callable[[int], None]
    ) -> Iterator[list[Record]]:
        """Yield the records of each piece that is done; a piece's come together."""
        if not isinstance(job.model, Table):
            raise ValueError("model: expected a study's own, which each actor loads")
        ray = self._ray
        if not ray.is_initialized():
            ray.init(address=self._address, log_to_driver=False, logging_level=logging.WARNING)
        pool = _Pool(ray, job, self._count(), self.actors)
        try:
            yield from pool.run(units, on_step)
        finally:
            pool.end()

    def _count(self) -> int:
        resources = self._ray.cluster_resources()
        found = resources.get("GPU") or resources.get("CPU", 1) // 4
        return self._workers or max(1, int(found))


class _Pool:
    def __init__(self, ray: Any, job: Job, count: int, actors: list[Any]) -> None:
        gpu = {"num_gpus": 1} if ray.cluster_resources().get("GPU") else {"num_cpus": 1}
        spread = {"scheduling_strategy": "SPREAD", "max_restarts": 0}
        self._actor = ray.remote(**gpu, **spread)(_Actor)
        self._encoded = ray.remote(num_cpus=0, max_restarts=-1)(_Encoded).remote()
        self._ray, self._job, self._count, self._actors = ray, job, count, actors

    def run(self, units: Sequence[Unit], on_step: Callable[[int], None]) -> Iterator[list[Record]]:
        """Hand out pieces, one to each actor at a time."""
        todo = deque((unit, 1) for unit in units)
        working: dict[Any, tuple[Any, Unit, int]] = {}  # by what an actor will give
        idle: list[Any] = []
        while todo or working:
            while todo and len(working) < self._count:
                actor = idle.pop() if idle else self._new()
                unit, attempt = todo.popleft()
                working[actor.run.remote(unit)] = actor, unit, attempt
            ready, _ = self._ray.wait(list(working), num_returns=1)
            for reference in ready:
                actor, unit, attempt = working.pop(reference)
                try:
                    records = self._ray.get(reference)
                except self._ray.exceptions.RayActorError as error:
                    self._lose(actor)
                    again, records = self._left(unit, attempt, error)
                    if again:
                        todo.appendleft((again, attempt + 1))
                except self._ray.exceptions.RayTaskError as error:
                    raise error.as_instanceof_cause() from None
                else:
                    idle.append(actor)
                for record in records:
                    on_step(int(record["steps"]))
                if records:
                    yield records

    def _left(self, unit: Unit, attempt: int, error: Exception) -> tuple[Unit, list[Record]]:
        """Return what a lost actor had not finished, and the records of what it had."""
        finished = done(Store(self._job.location), (cell.id for cell in unit))
        left = left_of(unit, set(finished))
        if left and attempt >= ATTEMPTS:
            raise WorkerLost(
                f"ray: {attempt} actors were lost in the same {len(left)} cells, the first of them "
                f"{left[0].id} ({left[0].place})"
            ) from error
        logger.warning("ray: an actor was lost; %d of its cells begin again elsewhere", len(left))
        return left, list(finished.values())

    def _new(self) -> Any:
        actor = self._actor.remote(self._job, self._encoded)
        self._actors.append(actor)
        return actor

    def _lose(self, actor: Any) -> None:
        self._actors.remove(actor)

    def end(self) -> None:
        """End all actors."""
        for actor in [*self._actors, self._encoded]:
            self._ray.kill(actor)
        self._actors.clear()


class _Actor:
    """Works on pieces, with one model."""

    def __init__(self, job: Job, encoded: Any) -> None:
        self._worker = Worker(job, shared=_Shared(import_module("ray"), encoded))

    def run(self, unit: Unit) -> list[Record]:
        """Make the cells of a piece; return their records."""
        return [record for records in self._worker.run(unit) for record in records]


class _Encoded:
    """Knows where in the object store patches are: pictures are encoded once for all actors."""

    def __init__(self) -> None:
        self._known: dict[str, list[Any]] = {}

    def find(self, name: str) -> list[Any]:
        """Return the reference in a list, or an empty list: nobody made it yet."""
        return self._known.get(name, [])

    def keep(self, name: str, reference: list[Any]) -> None:
        """Keep a reference, in a list so that it is not fetched."""
        self._known[name] = reference


class _Shared:
    """What the patches of one actor share with those of the others."""

    def __init__(self, ray: Any, encoded: Any) -> None:
        self._ray, self._encoded = ray, encoded

    def get(self, key: object) -> Any:
        """Return what somebody made; None: nobody did, or it is lost."""
        try:
            found = self._ray.get(self._encoded.find.remote(_name(key)))
            return self._ray.get(found[0]) if found else None
        except (self._ray.exceptions.RayActorError, self._ray.exceptions.ObjectLostError):
            return None

    def put(self, key: object, value: Any) -> None:
        """Keep what was made for the others."""
        try:
            self._encoded.keep.remote(_name(key), [self._ray.put(value)])
        except self._ray.exceptions.RayActorError:
            return


def _name(key: object) -> str:
    return hashlib.sha256(repr(key).encode()).hexdigest()
