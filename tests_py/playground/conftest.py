# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from attnpatch.playground.small_model import SmallModel

HELD = 77

# The program, which also notes every name that it looks up and every address that it calls.
PROGRAM = """
import signal, socket, sys, time

# What is begun in a shell's background ignores the first, by nohup the second: so do its children.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

def noting(function, place):
    def noted(*arguments, **options):
        with open(sys.argv[1], "a") as log:
            log.write(f"{arguments[place]}\\n")
        return function(*arguments, **options)
    return noted

socket.socket.connect = noting(socket.socket.connect, 1)
socket.getaddrinfo = noting(socket.getaddrinfo, 0)

from attnpatch_command.cli import main
from attnpatch.playground.compare import Playground

def holding(run):
    def held(self, settings, on_progress):
        def tell(share, what):
            on_progress(share, what)
            while settings.seed == HELD:
                time.sleep(0.2)
                on_progress(share, what)
        return run(self, settings, tell)
    return held

Playground.run = holding(Playground.run)

sys.exit(main(sys.argv[2:]))
""".replace("HELD", str(HELD))


@dataclass(frozen=True)
class Served:
    """A running playground: its address, and the file with what it called."""

    address: str
    calls: Path


@contextmanager
def playing(calls, until="Playground: ", **variables):
    """Start a playground; give the process and the line that begins as awaited."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, calls, "play", "--no-browser", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **variables},
    )
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith(until):
                break
        assert lines and lines[-1].startswith(until), "".join(lines)
        yield process, lines[-1]
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    pytest.importorskip("gradio", reason="gradio is not installed")
    calls = tmp_path_factory.mktemp("played") / "calls.txt"
    calls.touch()
    with playing(calls) as (_, line):
        yield Served(line.split()[1], calls)


@pytest.fixture
def held():
    """The seed whose picture is not ready before it is stopped."""
    return HELD


@pytest.fixture
def play():
    """Starts a playground of one's own."""
    pytest.importorskip("gradio", reason="gradio is not installed")
    return playing


@pytest.fixture(scope="session")
def model():
    return SmallModel()


@pytest.fixture(scope="session")
def references(model):
    return model.examples()


@pytest.fixture
def left_half():
    """A mask of another size than the picture."""
    mask = Image.new("L", (64, 48))
    ImageDraw.Draw(mask).rectangle((0, 0, 31, 47), fill=255)
    return mask
