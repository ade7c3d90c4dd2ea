# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The program's output: another program may read it, or somebody may wait for it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["INTERRUPTED", "end_quietly", "say", "say_when_slow"]

INTERRUPTED = 130
"""What shells give of a program that Ctrl+C has ended."""
_STATUS = 141
"""What shells give of a program that SIGPIPE has ended."""


def end_quietly(main: Callable[[], int]) -> int:
    """Run a program; where the reader of its output has gone (``| head``), end without a word.

    Parameters
    ----------
    main
        Returns the exit status, or raises SystemExit.

    Returns
    -------
    int
        The exit status; 141 where the reader has gone.
    """
    try:
        try:
            return main()
        finally:
            print(end="", flush=True)
    except BrokenPipeError:
        if not _reader_has_gone():
            raise  # another pipe
        # Python flushes once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _STATUS


def say(text: str) -> None:
    """Write a line to standard error, at once."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def say_when_slow(text: str, seconds: float = 2.0) -> Iterator[None]:
    """Where a block takes longer, tell who sits at the terminal what it does.

    Parameters
    ----------
    text
        The line; nothing is written where standard error is no terminal.
    seconds
        How long the block may be silent.
    """
    if not sys.stderr.isatty():
        yield
        return
    timer = threading.Timer(seconds, lambda: say(text))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _reader_has_gone() -> bool:
    try:
        print(flush=True)
    except BrokenPipeError:
        return True
    return False
