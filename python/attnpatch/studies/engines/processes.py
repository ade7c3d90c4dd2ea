# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The engine of processes, one a device: a process that is lost is made anew."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait

import torch

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
from attnpatch.studies.results.records import Record
from attnpatch.studies.table import Table
from attnpatch.studies.values import whole

__all__ = ["Processes"]

_SECONDS_TO_END = 10.0


class Processes:
    """Runs pieces in processes of their own, each with a model of its own.

    Parameters
    ----------
    workers
        How many; None: one for each GPU, or on a machine without one a process for every four
        cores.
    """

    def __init__(self, workers: int | None = None) -> None:
        if workers is not None:
            whole("workers", workers, 1)
        self._count = workers or torch.cuda.device_count() or max(1, (os.cpu_count() or 1) // 4)

    @contextmanager
    def open(self, job: Job, on_step: Callable[[int], None]) -> Iterator[Pool]:
        """Give a pool, whose processes start when there is work for them."""
        if not isinstance(job.model, Table):
            raise ValueError("model: expected a study's own, which each process loads")
        _check_pickles(job)
        pool = _Pool(job, self._count, on_step)
        try:
            yield pool
        finally:
            pool.end()


def _check_pickles(job: Job) -> None:
    for name, function in job.measures.items():
        try:
            pickle.dumps(function)
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            raise TypeError(
                f"measures: expected functions of a module, which processes can import, got "
                f"{function!r} as {name!r}"
            ) from error


class _Pool(TaskPool):
    """Processes that live until the sweep ends."""

    def __init__(self, job: Job, count: int, on_step: Callable[[int], None]) -> None:
        self._job, self._count, self._on_step = job, count, on_step
        self._processes: list[_Process] = []
        self._done: set[str] = set()

    def work(self, task: Task, units: Sequence[Unit]) -> Iterator[list[Record]]:
        """Hand out pieces, one at a time to each process."""
        todo = deque((unit, 1) for unit in units)
        while len(self._processes) < min(self._count, len(todo)):
            self._processes.append(_Process(self._job, len(self._processes), self._count))
        while todo or any(one.unit for one in self._processes):
            for one in self._processes:
                one.begin_next(task, todo)
            for one in _ready(self._processes):
                records = one.receive(self._on_step)
                self._done.update(record["id"] for record in records or ())
                if records:
                    yield records
                if one.lost:
                    _again(one, todo, self._done)
                    one.restart()

    def end(self) -> None:
        """End all processes, in whatever they are."""
        for one in self._processes:
            one.end()


def _again(lost: _Process, todo: deque[tuple[Unit, int]], done: set[str]) -> None:
    """Put what a lost process had not finished in front."""
    assert lost.unit is not None
    unit, attempt = lost.unit
    left = left_of(unit, done)
    lost.unit = None
    if not left:
        return
    if attempt >= ATTEMPTS:
        raise WorkerLost(
            f"processes: {attempt} of them ended in the same {len(left)} cells, the first of them "
            f"{left[0].id} ({left[0].place}); the last one with {lost.exit_code}"
        )
    logger.warning(
        "processes: one ended with %s; its %d cells that are not done begin again",
        lost.exit_code,
        len(left),
    )
    todo.appendleft((left, attempt + 1))


class _Process:
    """A process, and the piece that it works on."""

    def __init__(self, job: Job, number: int, count: int) -> None:
        self._job, self._number, self._count = job, number, count
        self.unit: tuple[Unit, int] | None = None
        self.lost = False
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # CUDA does not outlive a fork
        self.connection, theirs = context.Pipe()
        device = f"cuda:{self._number}" if torch.cuda.device_count() > self._number else None
        arguments = theirs, self._job, device, self._count
        self._process = context.Process(target=_work, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    @property
    def exit_code(self) -> int | None:
        """What the process ended with; below zero: a signal."""
        self._process.join(_SECONDS_TO_END)
        return self._process.exitcode

    def begin_next(self, task: Task, todo: deque[tuple[Unit, int]]) -> None:
        """Begin a piece, if there is one and the process has none."""
        if self.unit is not None or not todo:
            return
        self.unit = todo.popleft()
        try:
            self.connection.send((task, self.unit[0]))
        except OSError:
            self.lost = True

    def receive(self, on_step: Callable[[int], None]) -> list[Record] | None:
        """Take one message; return the records in it."""
        if self.lost:
            return None
        try:
            kind, value = self.connection.recv()
        except (EOFError, OSError):
            self.lost = True
            return None
        if kind == "step":
            on_step(value)
        elif kind == "done":
            self.unit = None
        elif kind == "error":
            error, text = value
            raise error from RuntimeError(text)
        return value if kind == "records" else None

    def restart(self) -> None:
        """Put a new process in the place of a lost one."""
        self.end()
        self.lost = False
        self._start()

    def end(self) -> None:
        """End the process, in whatever it is."""
        self.connection.close()
        self._process.terminate()
        self._process.join(_SECONDS_TO_END)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _ready(pool: Sequence[_Process]) -> list[_Process]:
    """Wait for some that work, and return those that have something to say or are lost."""
    working = [one for one in pool if one.unit is not None]
    lost = [one for one in working if one.lost]
    if lost:
        return lost
    heard = wait([one.connection for one in working])
    return [one for one in working if one.connection in heard]


def _work(connection: Connection, job: Job, device: str | None, count: int) -> None:
    """Work on pieces until nobody listens any more: the body of a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who began it ends it
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))
    worker = Worker(job, device, lambda cells: connection.send(("step", cells)))
    try:
        while True:
            task, unit = connection.recv()
            for records in worker.work(task, unit):
                connection.send(("records", records))
            connection.send(("done", None))
    except (EOFError, BrokenPipeError):
        return
    except Exception as error:
        connection.send(("error", (_plain(error), traceback.format_exc())))


def _plain(error: Exception) -> Exception:
    """Return an error that another process can read."""
    kind = type(error) if type(error) in (OSError, TypeError, ValueError) else RuntimeError
    return kind(str(error))
