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
    """Knows who is being served."""

    def __init__(self) -> None:
        self._running: dict[str | None, threading.Event] = {}

    @contextmanager
    def serving(self, session: str | None) -> Iterator[Callable[[], None]]:
        """While a visitor is served: gives what is called at each step, and raises `Stopped`."""
        wanted = self._running[session] = threading.Event()

        def check() -> None:
            if wanted.is_set():
                raise Stopped

        try:
            yield check
        finally:
            if self._running.get(session) is wanted:
                del self._running[session]

    def stop(self, session: str | None) -> bool:
        """Stop a visitor's picture at its next step; False where none is being made."""
        wanted = self._running.get(session)
        if wanted is not None:
            wanted.set()
        return wanted is not None
