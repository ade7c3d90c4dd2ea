# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: tables, files, comparisons, programs that compete."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))
import measuring
from measuring import Measuring, Table, add_arguments, compare, measure, ratio


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


BENCH = Path(measuring.__file__).parent


@pytest.mark.slow
def test_every_benchmark_can_be_imported():
    """Most need minutes, or hosts that no test has; what they import from each other is there."""
    names = sorted(file.stem for file in BENCH.glob("*.py") if file.stem != "describe_cuda")
    assert "compare_unets" in names
    code = f"import importlib\nfor name in {names}: importlib.import_module(name)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=BENCH, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_measure_alternates_and_counts_every_round():
    called = []
    calls = [lambda: called.append("a"), lambda: called.append("b")]
    times = measure(calls, rounds=3, seconds=0.0)
    assert [len(x) for x in times] == [3, 3]
    assert called == ["a", "a", "b", "b", *["a", "b"] * 3]


def test_a_ratio_is_the_median_over_the_rounds():
    assert ratio([2.0, 9.0, 3.0], [1.0, 1.0, 1.0]) == 3.0


def test_figures_are_printed_written_and_compared(tmp_path, capsys):
    file = tmp_path / "figures.json"
    with Measuring(options("--json", str(file)), "a note").running() as run:
        run.table("work", ("size",), ("ours, ms", "/torch")).add((8,), (1.0, 2.0))
    assert "| 8 | 1.00 | 2.00 |" in capsys.readouterr().out
    written = json.loads(file.read_text())
    assert written["about"]["dtype"] == "float32"
    assert written["tables"][0]["rows"][0]["figures"] == {"ours, ms": 1.0, "/torch": 2.0}

    with Measuring(options("--against", str(file))).running() as run:
        run.table("work", ("size",), ("ours, ms", "/torch")).add((8,), (3.0, 1.5))
    out = capsys.readouterr().out
    assert "- work, 8: /torch 2.00, now 1.50" in out
    assert "- work: 1 ratios, 0.750 times those before" in out


@pytest.mark.parametrize("now, worse", [(2.0, False), (1.95, False), (1.8, True)])
def test_only_ratios_that_are_worse_by_a_twentieth_are_named(now, worse):
    old = Table("work", ("size",), ("ours, ms", "/torch"))
    old.add((8,), (1.0, 2.0))
    new = Table("work", ("size",), ("ours, ms", "/torch"))
    new.add((8,), (9.0, now))  # times differ between machines
    new.add((9,), (1.0, 0.1))  # what was not measured before
    before = {
        "about": {"commit": "abc", "machine": "one"},
        "tables": [{"name": old.name, "rows": old.rows}],
    }
    lines = list(compare(before, [new]))
    assert any("now" in line for line in lines) is worse
    assert any("8" in line for line in lines if "now" in line) is worse


def test_competing_programs_run_beside_and_end(monkeypatch):
    started = []
    popen = measuring.subprocess.Popen

    def start(*args, **kwargs):
        if kwargs.get("start_new_session"):
            started.append(popen(*args, **kwargs))
            return started[-1]
        return popen(*args, **kwargs)

    monkeypatch.setattr(measuring.subprocess, "Popen", start)
    error = pytest.raises(RuntimeError, match="in the middle")
    with error, Measuring(options("--busy", "2")).running():
        time.sleep(0.1)
        assert [program.poll() for program in started] == [None, None]
        raise RuntimeError("in the middle")
    assert all(program.poll() is not None for program in started)
