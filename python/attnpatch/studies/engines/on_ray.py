# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The engine of Ray: actors hold models, the object store holds what pictures are encoded to."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from attnpatch.studies.build import Prompt
from attnpatch.studies.engines.job import (
    ATTEMPTS,
    Job,
    Pool,
    Task,
    TaskPool,
    Unit,
    Worker,
    WorkerLost,
    left_of,
    logger,
)
from attnpatch.studies.engines.ray_head import Head
from attnpatch.studies.results.records import Record, done
from attnpatch.studies.results.store import Store
from attnpatch.studies.table import Table

__all__ = ["Ray"]

_CORES = 4  # of an actor, in a cluster without GPUs
_SECONDS_A_TURN = 2.0
_SECONDS_OF_SILENCE = 60


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

    @contextmanager
    def open(self, job: Job, on_step: Callable[[int], None]) -> Iterator[Pool]:
        """Give a pool, whose actors start when there is work for them.

        Raises
        ------
        ConnectionError
            Where there is no cluster, or its head is lost.
        ValueError
            Where this process is connected to another cluster than `address`.
        WorkerLost
            Where actors do not start, or are lost in the same cells again and again.
        """
        if not isinstance(job.model, Table):
            raise ValueError("model: expected a study's own, which each actor loads")
        head = Head(self._connect())
        pool = _Pool(self._ray, head, job, self._workers, on_step)
        try:
            yield pool
        finally:
            if head.lost:
                self._ray.shutdown()  # else Ray ends this process
            else:
                pool.end()

    def _connect(self) -> str:
        """Return the address of the head."""
        ray = self._ray
        known = ray.is_initialized()
        if not known:
            ray.init(address=self._address, log_to_driver=False, logging_level=logging.WARNING)
        found = str(ray.get_runtime_context().gcs_address)
        if known and self._address not in (None, "auto", found):
            raise ValueError(
                f"address: expected none or {found}, which this process is connected to, "
                f"got {self._address}"
            )
        return found


class _Pool(TaskPool):
    """Actors, and what each is at."""

    def __init__(
        self,
        ray: Any,
        head: Head,
        job: Job,
        workers: int | None,
        on_step: Callable[[int], None],
    ) -> None:
        self._ray, self._head, self._job, self._on_step = ray, head, job, on_step
        self._count, needs = _share(ray, workers)
        self._actor = ray.remote(**needs, scheduling_strategy="SPREAD", max_restarts=0)(_Actor)
        self._encoded = ray.remote(num_cpus=0, max_restarts=-1)(_Encoded).remote()
        self._starting: dict[Any, Any] = {}  # actors by what they give once they have started
        self._working: dict[Any, tuple[Any, Unit, int]] = {}  # by the stream of their records
        self._idle: list[Any] = []
        self._failed = 0
        self._done: set[str] = set()
        losses = ray.exceptions.RayActorError, ray.exceptions.ObjectLostError
        self._losses: tuple[type[Exception], ...] = losses

    def work(self, task: Task, units: Sequence[Unit]) -> Iterator[list[Record]]:
        """Hand out pieces, one at a time to each actor that has started."""
        self._task = task
        self._todo = deque((unit, 1) for unit in units)
        silent = _Silence(self._count)
        while self._todo or self._working:
            self._begin()
            waiting = [*self._starting, *self._working]
            ready, _ = self._ray.wait(waiting, num_returns=1, timeout=_SECONDS_A_TURN)
            self._head.require()
            for one in ready:
                if one in self._starting:
                    self._started(one)
                elif records := self._heard(one):
                    for record in records:
                        self._on_step(int(record["steps"]))
                    yield records
            silent.say(nobody=not self._working)

    def _begin(self) -> None:
        """Start the actors that there is work for, and give work to those that have none."""
        wanted = min(self._count, len(self._todo) + len(self._working))
        while len(self._starting) + len(self._working) + len(self._idle) < wanted:
            actor = self._actor.remote(self._job, self._encoded)
            self._starting[actor.start.remote()] = actor
        while self._todo and self._idle:
            self._give(self._idle.pop(), *self._todo.popleft())

    def _give(self, actor: Any, unit: Unit, attempt: int) -> None:
        stream = actor.work.options(num_returns="streaming").remote(self._task, unit)
        self._working[stream] = actor, unit, attempt

    def _started(self, reference: Any) -> None:
        actor = self._starting.pop(reference)
        try:
            self._ray.get(reference)
        except self._losses as error:
            self._failed += 1
            if self._failed >= ATTEMPTS:
                raise WorkerLost(f"ray: {ATTEMPTS} actors did not start: {error}") from error
        else:
            self._failed = 0
            self._idle.append(actor)

    def _heard(self, stream: Any) -> list[Record]:
        """Take the next records of a stream; none at its end."""
        actor, unit, attempt = self._working[stream]
        try:
            records = self._ray.get(next(stream))
        except StopIteration:
            del self._working[stream]
            self._idle.append(actor)
            return []
        except self._losses as error:
            del self._working[stream]
            self._ray.kill(actor)
            records = self._again(unit, attempt, error)
        except self._ray.exceptions.RayTaskError as error:
            raise error.as_instanceof_cause() from None
        self._done.update(record["id"] for record in records)
        return records

    def _again(self, unit: Unit, attempt: int, error: Exception) -> list[Record]:
        """Put what a lost actor had not finished in front; return what it did not tell of."""
        untold = left_of(unit, self._done)
        found = done(Store(self._job.location), (cell.id for cell in untold))
        left = left_of(untold, set(found))
        if left and attempt >= ATTEMPTS:
            raise WorkerLost(
                f"ray: {attempt} actors were lost in the same {len(left)} cells, the first of them "
                f"{left[0].id} ({left[0].place})"
            ) from error
        if left:
            logger.warning("ray: an actor was lost; its %d cells left begin again", len(left))
            self._todo.appendleft((left, attempt + 1))
        return list(found.values())

    def end(self) -> None:
        """End all actors."""
        working = (actor for actor, _, _ in self._working.values())
        for actor in (*self._starting.values(), *working, *self._idle, self._encoded):
            self._ray.kill(actor)


class _Silence:
    """Warns once where no actor works for long: the cluster may have no room."""

    def __init__(self, count: int) -> None:
        self._count, self._since, self._said = count, time.monotonic(), False

    def say(self, nobody: bool) -> None:
        if not nobody:
            self._since = time.monotonic()
        elif not self._said and time.monotonic() - self._since > _SECONDS_OF_SILENCE:
            logger.warning(
                "ray: no actor has started for %d s, %d wanted; has the cluster room for one?",
                _SECONDS_OF_SILENCE,
                self._count,
            )
            self._said = True


def _share(ray: Any, workers: int | None) -> tuple[int, dict[str, int]]:
    """Return how many actors there are to be, and what each needs of its node."""
    gpus = ray.cluster_resources().get("GPU")
    if gpus:
        return workers or max(1, int(gpus)), {"num_gpus": 1}
    cores = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    cores = [count for count in cores if count] or [1]
    count = workers or max(1, sum(cores) // _CORES)
    # Ray gives an actor as many threads as it has cores.
    return count, {"num_cpus": max(1, min(_CORES, *cores, sum(cores) // count))}


class _Actor:
    """Works on pieces, with one model."""

    def __init__(self, job: Job, encoded: Any) -> None:
        self._worker = Worker(job, shared=_Shared(import_module("ray"), encoded))

    def start(self) -> None:
        """Return once the actor has started."""

    def work(self, task: Task, unit: Unit) -> Iterator[list[Record]]:
        """Do what is asked with the cells of a piece; yield the records of each batch."""
        yield from self._worker.work(task, unit)


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

    def get(self, key: object) -> Prompt | None:
        """Return what somebody made; None: nobody did, or it is lost."""
        try:
            found = self._ray.get(self._encoded.find.remote(_name(key)))
            return self._ray.get(found[0]) if found else None
        except (self._ray.exceptions.RayActorError, self._ray.exceptions.ObjectLostError):
            return None

    def put(self, key: object, value: Prompt) -> None:
        """Keep what was made for the others."""
        try:
            self._encoded.keep.remote(_name(key), [self._ray.put(value)])
        except self._ray.exceptions.RayActorError:
            return


def _name(key: object) -> str:
    return hashlib.sha256(repr(key).encode()).hexdigest()
