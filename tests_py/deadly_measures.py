# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Measures that kill the process that asks them: other processes can import this module."""

import os
import signal
import time
from pathlib import Path


class KilledOnce:
    """A measure that kills its own process at the first picture of a seed, once."""

    def __init__(self, folder, seed):
        self.flag, self.seed = Path(folder) / "killed", seed

    def __call__(self, picture, cell):
        if cell.argument("seed") == self.seed and not self.flag.exists():
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return float(os.getpid())


class Process:
    """The process that makes a picture."""

    def __call__(self, picture, cell):
        return float(os.getpid())


class KilledAlways:
    def __call__(self, picture, cell):
        os.kill(os.getpid(), signal.SIGKILL)


class Wrong:
    def __call__(self, picture, cell):
        raise ValueError("picture: expected a better one")


class Held:
    """A measure that waits at the first picture of a seed, until somebody lets it go."""

    def __init__(self, folder, seed):
        self.folder, self.seed = Path(folder), seed

    def __call__(self, picture, cell):
        if cell.argument("seed") == self.seed:
            (self.folder / "held").touch()
            while not (self.folder / "let_go").exists():
                time.sleep(0.1)
        return 0.0
