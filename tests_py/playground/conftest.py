# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from attnpatch.playground.small_model import SmallModel

# The program, which also notes every name that it looks up and every address that it calls.
PROGRAM = """
import socket, sys

def noting(function, place):
    def noted(*arguments, **options):
        with open(sys.argv[1], "a") as log:
            log.write(f"{arguments[place]}\\n")
        return function(*arguments, **options)
    return noted

socket.socket.connect = noting(socket.socket.connect, 1)
socket.getaddrinfo = noting(socket.getaddrinfo, 0)

from attnpatch.cli import main

sys.exit(main(sys.argv[2:]))
"""


@dataclass(frozen=True)
class Served:
    """A running playground: its address, and the file with what it called."""

    address: str
    calls: Path


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    pytest.importorskip("gradio", reason="gradio is not installed")
    calls = tmp_path_factory.mktemp("played") / "calls.txt"
    calls.touch()
    words = [calls, "play", "--no-browser", "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Playground: "):
                break
        assert lines and lines[-1].startswith("Playground: "), "".join(lines)
        yield Served(lines[-1].split()[1], calls)
    finally:
        process.terminate()
        process.communicate(timeout=60)


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
