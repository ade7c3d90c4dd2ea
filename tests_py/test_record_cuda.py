# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The script that records a GPU, with a kit whose programs pass, fail, hang and are missing."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "bench" / "record_cuda.sh"

pytestmark = pytest.mark.skipif(
    os.name == "nt" or shutil.which("timeout") is None, reason="needs bash and timeout"
)


def program(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def kit(tmp_path):
    """A kit with a Python that does as $1 says: its last word but options."""
    folder = tmp_path / "kit"
    (folder / "python" / "attnpatch").mkdir(parents=True)
    program(folder / "cuda_tests", 'echo "[  PASSED  ] 3 tests."')
    program(
        tmp_path / "python3",
        'case "$*" in *describe*) echo "## A GPU";; *compare*) echo "| a row |"; '
        "exec sleep 30;; *tile_attention*) echo 'RuntimeError: no'; exit 3;; "
        '*) echo "5 passed";; esac',
    )
    return folder


def record(kit, *steps, **environment):
    environment = {
        **os.environ,
        "KIT": str(kit),
        "RECORD": str(kit.parent / "record"),
        "PYTHON": str(kit.parent / "python3"),
        **environment,
    }
    ended = subprocess.run(
        ["bash", str(SCRIPT), *steps], env=environment, capture_output=True, text=True, timeout=100
    )
    path = kit.parent / "record" / "record.md"
    return ended, path.read_text() if path.exists() else ""


def test_what_passes_stands_in_the_record(kit):
    ended, text = record(kit, "versions", "cpp-tests")
    assert ended.returncode == 0
    lines = [line for line in text.splitlines() if line]
    assert lines[0].startswith("- versions: **passed** in ")
    assert lines[1] == "## A GPU"
    assert lines[2].startswith("- cpp-tests: **passed** in ")
    assert lines[2].endswith("[  PASSED  ] 3 tests.")


def test_a_step_that_fails_stops_no_other(kit):
    ended, text = record(kit, "first", "cpp-tests")
    assert ended.returncode == 1
    assert "- first-tile_attention: **FAILED (3)** in " in text
    assert "RuntimeError: no" in text
    assert text.count("**passed**") == 6  # five operators, and what comes after


def test_a_step_that_hangs_is_stopped_and_what_it_said_is_kept(kit):
    program(kit / "cuda_tests", "sleep 30")
    # No time at all: timeout takes 0 as none, so the steps are scaled by hand.
    text = SCRIPT.read_text()
    script = kit.parent / "bench" / "record_cuda.sh"
    script.parent.mkdir()
    script.write_text(
        text.replace("table bench 60", "table bench 1").replace(
            "step cpp-tests 60", "step cpp-tests 1"
        )
    )
    environment = {
        **os.environ,
        "KIT": str(kit),
        "RECORD": str(kit.parent / "record"),
        "PYTHON": str(kit.parent / "python3"),
    }
    ended = subprocess.run(
        ["bash", str(script), "bench", "cpp-tests", "versions"],
        env=environment,
        capture_output=True,
        timeout=25,
    )
    text = (kit.parent / "record" / "record.md").read_text()
    assert ended.returncode == 1
    assert "- bench: **STOPPED, its time was over** in " in text
    assert "| a row |" in text
    assert "- cpp-tests: **STOPPED, its time was over** in " in text
    assert "- versions: **passed**" in text


def test_what_has_no_time_left_is_not_run_and_the_record_says_so(kit):
    program(kit / "cuda_tests", "sleep 30")
    ended, text = record(kit, "cpp-tests", "first", "versions", SECONDS_IN_ALL="8")
    assert ended.returncode == 1
    assert "- cpp-tests: **STOPPED, its time was over** in " in text
    for operator in ("branch_attention", "blur_and_blend"):
        assert f"- first-{operator}: **NOT RUN**, no time was left" in text
    assert "- versions: **NOT RUN**, no time was left" in text
    assert "passed" not in text


def test_tools_that_are_not_there_are_named(kit, tmp_path):
    for tool in ("bash", "timeout", "realpath", "mkdir", "tee", "sync", "dirname"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    ended, text = record(kit, "profile", "sanitizers", PATH=str(tmp_path))
    assert ended.returncode == 0
    assert "- profile: **NOT RUN**, no ncu here" in text
    assert "- sanitizers: **NOT RUN**, no compute-sanitizer here" in text


def test_verdicts_are_had_alone(kit):
    program(kit.parent / "python3", 'case "$*" in *tune*) echo "$*";; *) echo "5 passed";; esac')
    ended, text = record(kit, "--verdicts")
    assert ended.returncode == 0
    steps = [line.split(":")[0] for line in text.splitlines() if line.startswith("- ")]
    assert steps[0] == "- versions"
    assert steps[1] == "- first-branch_attention"
    assert steps[-1] == "- tune"
    assert len(steps) == 8
    assert "--dtype float16 bfloat16" in (kit.parent / "record" / "tune.txt").read_text()


def test_a_step_without_its_program_is_a_failure(kit):
    (kit / "cuda_tests").unlink()
    ended, text = record(kit, "cpp-tests")
    assert ended.returncode == 1
    assert "- cpp-tests: **FAILED (127)**" in text


def test_without_a_kit_it_says_what_to_do(tmp_path):
    ended, _ = record(tmp_path / "kit")
    assert ended.returncode == 2
    assert "expected a kit, got no such folder: bench/cuda_kit.sh builds one" in ended.stderr


def test_an_unknown_step_is_an_error(kit):
    ended, _ = record(kit, "everything")
    assert ended.returncode == 2
    assert "got everything" in ended.stderr
