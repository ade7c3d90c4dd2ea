# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""attnpatch tune with children that crash, hang, refuse and talk nonsense."""

import json
from dataclasses import asdict

import pytest
import torch

from attnpatch.ops.admission import Verdict, child, read, tune
from attnpatch.ops.admission.tune import Ended
from attnpatch_command.cli import main

GPU = {"device": "cuda", "name": "A GPU"}
KEYS = [["pool_tokens", "torch.float16", name] for name in ("small", "large")]


def line(**content):
    return json.dumps(content)


def right(key, median=2.0):
    return line(verdict=asdict(Verdict(*key, "right", median, median)))


BEGUN = [line(identity=GPU), line(classes=KEYS)]


def tuned(tmp_path, ended, device="cuda:0"):
    said = []
    calls = []

    def run(arguments, seconds):
        calls.append((list(arguments), seconds))
        return ended

    path = tune.tune(
        device, ["pool_tokens"], ["float16"], seconds=7.0, run=run, where=tmp_path, say=said.append
    )
    wanted = ["--operator", "pool_tokens", "--device", device, "--dtype", "float16"]
    assert calls == [(wanted, 7.0)]
    return path, said


def test_a_child_that_ends_well_is_believed(tmp_path):
    lines = [*BEGUN, right(KEYS[0]), right(KEYS[1], 0.5), line(done=True)]
    path, said = tuned(tmp_path, Ended(lines, 0))
    assert path is not None
    assert [v.admits for v in read(GPU, tmp_path)] == [False, True]  # large, small
    assert "pool_tokens float16, small: kernel (2.00 times as fast as plain torch)" in said
    assert "pool_tokens float16, large: plain torch (0.50 times as fast as plain torch)" in said


@pytest.mark.parametrize(
    ("status", "errors", "reason"),
    [
        (-11, "", "it was ended by signal 11"),
        (None, "", "it took too long"),
        (
            1,
            "Traceback\nRuntimeError: illegal address\n",
            "ended with status 1: RuntimeError: ille",
        ),
        (0, "", "it ended with status 0"),  # without a word that it is done
    ],
)
def test_a_child_that_does_not_leaves_plain_torch(tmp_path, status, errors, reason):
    """Also for what it had found right: after a fault nothing of it is trusted."""
    path, said = tuned(tmp_path, Ended([*BEGUN, right(KEYS[0])], status, errors))
    found = read(GPU, tmp_path)
    assert path is not None
    assert [v.state for v in found] == ["failed", "failed"]
    assert all(reason in v.reason for v in found)
    assert any(reason in text and "plain torch serves" in text for text in said)


def test_nothing_is_written_where_a_child_says_nothing(tmp_path):
    for ended in (
        Ended([], -9),
        Ended([line(refusal="built with CUDA 13.0, the driver takes CUDA 12.4")], 0),
        Ended(["Killed", "{", "3", "[1]"], 137),
    ):
        path, said = tuned(tmp_path, ended)
        assert path is None
        assert "nothing is changed" in said[0]
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_is_said(tmp_path):
    _, said = tuned(tmp_path, Ended([line(refusal="no kernel image")], 0))
    assert said == ["pool_tokens: no kernel image; nothing is changed"]


@pytest.mark.parametrize(("status", "times"), [(1, 1), (0, 1), (-9, 2), (None, 2)])
def test_a_device_that_is_not_there_is_said_once(tmp_path, status, times):
    said = []
    path = tune.tune(
        "cuda:0",
        ["pool_tokens", "tile_attention"],
        ["float16"],
        run=lambda *_: Ended([], status, "RuntimeError: no driver"),
        where=tmp_path,
        say=said.append,
    )
    assert path is None
    assert len(said) == times


def test_a_slow_cpu_is_no_fault(tmp_path):
    path, said = tuned(tmp_path, Ended([*BEGUN, right(KEYS[0])], None), "cpu")
    assert path is None
    assert said == ["pool_tokens: it took too long; nothing is changed"]


def test_words_between_the_lines_do_not_matter(tmp_path):
    lines = ["a warning", *BEGUN, "{broken", right(KEYS[0]), right(KEYS[1]), "", line(done=True)]
    tuned(tmp_path, Ended(lines, 0))
    assert all(v.admits for v in read(GPU, tmp_path))


def test_a_busy_gpu_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(tune, "busy_percent", lambda device: 60)
    assert main(["tune"]) == 1
    assert "expected a GPU that nobody uses, got one that is 60 % busy" in capsys.readouterr().err


def test_devices_that_no_kernel_serves_are_refused_at_once(monkeypatch, capsys):
    monkeypatch.setattr(tune, "tune", never)
    with pytest.raises(SystemExit, match="2"):
        main(["tune", "--device", "gpu"])
    assert "--device: expected cpu, cuda or cuda:N, got 'gpu'" in capsys.readouterr().err


def test_a_busy_gpu_may_be_asked_for(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("ATTNPATCH_CACHE", str(tmp_path))
    monkeypatch.setattr(tune, "busy_percent", lambda device: 60)
    monkeypatch.setattr(tune.tune, "__kwdefaults__", {**tune.tune.__kwdefaults__, "run": never})
    assert main(["tune", "--busy", "--operator", "pool_tokens"]) == 1
    assert "pool_tokens: it took too long; nothing is changed" in capsys.readouterr().out


def never(arguments, seconds):
    return Ended([], None)


def test_a_child_that_hangs_is_ended():
    assert tune.run_child(["--device", "cpu"], 0.05).status is None


@pytest.mark.slow
def test_a_real_child_says_what_it_runs_on():
    report = tune.report_of(tune.run_child(["--device", "cpu"], 300))
    assert report.problem == ""
    assert report.identity["device"] == "cpu"
    assert report.identity["torch"] == torch.__version__


def test_a_child_tries_every_class_of_an_operator(monkeypatch, capsys):
    """On this CPU, with the small problems alone."""
    monkeypatch.setattr(child, "problems", lambda *a: [p for p in all_problems(*a) if not p.real])
    arguments = ["--operator", "blur_and_blend", "--device", "cpu", "--dtype", "float32", "float16"]
    assert child.main([*arguments, "--rounds", "2", "--seconds", "0.001"]) == 0
    report = tune.report_of(Ended(capsys.readouterr().out.splitlines(), 0))
    assert report.problem == ""
    assert {v.dtype for v in report.verdicts} == {"torch.float32", "torch.float16"}
    assert {v.state for v in report.verdicts} == {"right"}
    assert all(v.median > 0 for v in report.verdicts)


all_problems = child.problems


@pytest.mark.slow
def test_a_cpu_is_not_asked_for_what_takes_minutes(monkeypatch):
    monkeypatch.setattr(child.library, "is_beyond", lambda *_: False)
    cpu, gpu = (
        set(child.by_class("biased_attention", torch.float16, torch.device(kind)))
        for kind in ("cpu", "cuda")
    )
    assert cpu < gpu
    assert {call.partition(", keys")[0] for call in gpu - cpu} == {
        "heads <=128, rows, queries >4096"
    }
