# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What the words after ``./run test`` start."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")

# The verbs' functions, with those that build or test put in words.
SHOWN = """
source ./run help >/dev/null
setup() { echo setup "$1"; }
system_packages() { echo system packages; }
cpp_tests() { echo "${*/#/C++ }"; }
cuda_compiler() { :; }
cuda_code() { echo CUDA; }
nproc() { echo 3; }
pytest() { echo pytest "$@"; }
run_tests "$@"
"""
PARALLEL = "pytest --numprocesses 3 --dist worksteal"


def run(*words):
    return subprocess.run(
        ["bash", "-c", SHOWN, "run", *words], cwd=ROOT, capture_output=True, text=True
    )


def started(*words):
    done = run(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_no_word_runs_everything():
    assert started() == ["setup test", "C++ release", "C++ asan", "CUDA", PARALLEL]


def test_cpp_needs_no_python():
    assert started("cpp", "-R", "kernels") == ["system packages", "C++ release C++ -R C++ kernels"]


def test_quick_leaves_out_what_is_slow():
    wanted = ["setup test", "C++ release", f"{PARALLEL} -m not slow --lf"]
    assert started("quick", "--lf") == wanted


@pytest.mark.parametrize("word", [("py",), ()])
@pytest.mark.parametrize("words", [("tests_py/ops", "-q"), ("tests_py/ops/test_plain.py::f",)])
def test_a_path_means_python(word, words):
    assert started(*word, *words) == ["setup test", f"{PARALLEL} {' '.join(words)}"]


def test_options_alone_mean_python():
    assert started("-k", "cpp") == ["setup test", f"{PARALLEL} -k cpp"]


@pytest.mark.parametrize("option", ["-x", "-vx", "-xq", "--exitfirst", "--pdb", "--trace"])
def test_what_stops_at_a_failure_runs_one_by_one(option):
    assert started("py", "tests_py", option)[-1] == f"pytest tests_py {option}"


@pytest.mark.parametrize("option", ["-n0", "--maxfail=2", "-kx", "--dist=load"])
def test_pytest_itself_reads_other_options(option):
    assert started("py", option)[-1] == f"{PARALLEL} {option}"


def test_other_words_are_refused():
    done = run("pyton")
    assert done.returncode == 2
    assert "./run test: expected cpp, py, quick or a path, got pyton" in done.stderr
    assert done.stdout == ""


def test_the_readme_names_what_ci_runs():
    commands = [
        line for line in (ROOT / ".ci/run").read_text().splitlines() if line.startswith("./run")
    ]
    assert commands == ["./run test", "./run lint"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(command in text for command in commands)
