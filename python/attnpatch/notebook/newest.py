# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Runs requests in a thread of its own: the newest alone, which stops the one that is running."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Newest", "Stopped"]

Request = TypeVar("Request")
Answer = TypeVar("Answer")


class Stopped(BaseException):
    """A run was stopped, since a newer request has come or nobody waits any more.

    No ``Exception``: a pipeline that catches those goes no further either.
    """


class Newest(Generic[Request, Answer]):
    """Answers the newest of many requests.

    Parameters
    ----------
    run : callable
        ``run(request, check)`` gives the answer. It calls ``check()`` often; that raises `Stopped`
        where the request is no longer the newest.
    done : callable
        ``done(request, answer)``, in the thread, for each that was not stopped; ``answer`` is the
        exception where one was raised, whichever: the thread outlives ``SystemExit`` too.
    """

    def __init__(
        self,
        run: Callable[[Request, Callable[[], None]], Answer],
        done: Callable[[Request, Answer | BaseException], None],
    ) -> None:
        self._run = run
        self._done = done
        self._changed = threading.Condition()
        self._wanted: list[Request] = []
        self._busy = False
        self._cancelled = False
        self._closed = False
        self.stopped = 0
        """How many runs were stopped."""
        self._thread = threading.Thread(target=self._work, name="attnpatch-explore", daemon=True)
        self._thread.start()

    def ask(self, request: Request) -> None:
        """Want an answer to a request, instead of all before."""
        with self._changed:
            if self._closed:
                raise RuntimeError("explore: this cell was closed; make it anew")
            self._wanted = [request]
            self._changed.notify_all()

    def cancel(self) -> bool:
        """Stop what runs, and want no answer any more; False where nothing was to be stopped."""
        with self._changed:
            something = bool(self._wanted or self._busy)
            self._wanted, self._cancelled = [], self._busy
            self._changed.notify_all()
            return something

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the newest request is answered; False where that took too long."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not (self._wanted or self._busy) or self._closed, timeout
            )

    def close(self) -> None:
        """Stop what runs, and end the thread."""
        with self._changed:
            self._closed, self._wanted = True, []
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _check(self) -> None:
        if self._wanted or self._cancelled or self._closed:
            raise Stopped

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self._closed)
                if self._closed:
                    return
                request = self._wanted.pop()
                self._busy, self._cancelled = True, False
            try:
                self._answer(request)
            except BaseException:  # of `done`: nobody else would see it, and the next one may work
                traceback.print_exc()
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _answer(self, request: Request) -> None:
        answer: Answer | BaseException
        try:
            answer = self._run(request, self._check)
            self._check()
        except Stopped:
            self.stopped += 1
            return
        except BaseException as error:  # whatever a pipeline raises is shown, not lost in a thread
            answer = error
        self._done(request, answer)
