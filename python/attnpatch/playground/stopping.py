# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Stops the picture of one visitor, and nobody else's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Stopped", "Stops"]


class Stopped(Exception):
    """A visitor wants no picture any more."""


class Stops:
    """Knows who waits, and who is being served."""

    def __init__(self) -> None:
        self._running: dict[str | None, threading.Event] = {}
        self._waiting: set[str | None] = set()
        self._left: set[str | None] = set()

    def wait(self, session: str | None) -> None:
        """Have a visitor wait for a picture; who left before has come back."""
        self._waiting.add(session)
        self._left.discard(session)

    @contextmanager
    def serving(self, session: str | None) -> Iterator[Callable[[], None]]:
        """While a visitor is served: gives what is called before each step; it raises `Stopped`."""
        wanted = self._running[session] = threading.Event()
        self._waiting.discard(session)
        if session in self._left:
            wanted.set()

        def check() -> None:
            if wanted.is_set():
                raise Stopped

        try:
            yield check
        finally:
            self._waiting.discard(session)
            self._left.discard(session)
            if self._running.get(session) is wanted:
                del self._running[session]

    def stop(self, session: str | None) -> bool:
        """Stop a visitor's picture, at its next step or before its first; False: none is due."""
        wanted = self._running.get(session)
        if wanted is not None:
            wanted.set()
        elif session in self._waiting:
            self._left.add(session)
        return wanted is not None or session in self._waiting
