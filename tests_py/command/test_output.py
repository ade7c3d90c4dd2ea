# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The program in front of ``| head`` ends without a word; who waits at a terminal is told why."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time

import pytest

from attnpatch_command.cli import main
from attnpatch_command.output import end_quietly, say_when_slow


def run(code, *arguments):
    """Run code whose standard output nobody reads; return the exit status and the error output."""
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            env={k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"},
        )
    finally:
        os.close(write)
    return done.returncode, done.stderr


DOCTOR = """
import sys, attnpatch_command
from attnpatch_command import doctor
from attnpatch_command.findings import Finding
doctor.examine = lambda hosts: [Finding("Versions", "name", "value")] * 1000
sys.exit(attnpatch_command.main())
"""
VERB = """
import sys, attnpatch.adapters, attnpatch_command
attnpatch.adapters.describe = lambda path: "a line\\n" * 9000
sys.exit(attnpatch_command.main())
"""
UNBUFFERED = "import sys; sys.stdout.reconfigure(write_through=True)\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        pytest.param(DOCTOR, ["doctor"], id="the doctor, which does not import the package"),
        pytest.param(UNBUFFERED + DOCTOR, ["doctor"], id="nothing is left to be flushed"),
        pytest.param(VERB, ["inspect", __file__], id="an error of the system, which verbs report"),
        pytest.param(DOCTOR, ["doctor", "--help"], id="argparse, which ends the program itself"),
    ],
)
def test_output_that_nobody_reads_ends_it_quietly(code, arguments):
    assert run(code, *arguments) == (141, "")


def test_another_pipe_that_breaks_is_an_error():
    def broken():
        raise BrokenPipeError("a worker's")

    with pytest.raises(BrokenPipeError, match="a worker's"):
        end_quietly(broken)


def test_an_interruption_is_no_traceback(monkeypatch, capsys, tmp_path):
    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("attnpatch.adapters.describe", interrupted)
    assert main(["inspect", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "attnpatch inspect: interrupted\n"


def test_the_exit_status_stays():
    assert end_quietly(lambda: 3) == 3
    with pytest.raises(SystemExit, match="4"):
        end_quietly(lambda: sys.exit(4))


class Terminal(io.StringIO):
    def isatty(self):
        return True


def wait_for(text, stream):
    end = time.monotonic() + 60
    while stream.getvalue() != text:
        assert time.monotonic() < end, stream.getvalue()
        time.sleep(0.01)


def test_what_takes_long_is_said_once(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with say_when_slow("loading", seconds=0.0):
        wait_for("loading\n", terminal)
    assert terminal.getvalue() == "loading\n"


@pytest.mark.parametrize(
    ("stream", "seconds"),
    [
        pytest.param(Terminal(), 0.2, id="quick"),
        pytest.param(io.StringIO(), 0.0, id="no terminal"),
    ],
)
def test_nothing_is_said_of_what_is_quick_or_where_nobody_sits(monkeypatch, stream, seconds):
    monkeypatch.setattr(sys, "stderr", stream)
    with say_when_slow("loading", seconds=seconds):
        time.sleep(0.05 if seconds == 0 else 0)
    time.sleep(0.3)
    assert stream.getvalue() == ""
