# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The program's output, which another program may read."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

__all__ = ["end_quietly"]

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


def _reader_has_gone() -> bool:
    try:
        print(flush=True)
    except BrokenPipeError:
        return True
    return False
