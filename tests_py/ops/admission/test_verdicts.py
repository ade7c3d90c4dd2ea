# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Files of verdicts: kept whole, void when anything changes, never in anybody's way."""

import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnpatch.ops.admission import Verdict, folder, read, verdicts, write
from attnpatch.ops.admission.choice import table_for

GPU = {
    "device": "cuda",
    "name": "A GPU",
    "capability": "9.0",
    "multiprocessors": 132,
    "driver": "580.1",
    "torch": "2.15.0",
    "build": "abc",
}
RIGHT = Verdict("pool_tokens", "torch.float16", "rows", "right", 1.5, 1.2, 1e-3, 1e-3)


def test_what_is_written_is_read(tmp_path):
    more = replace(RIGHT, operator="blur_and_blend", state="failed", reason="it took too long")
    path = write(GPU, [RIGHT, more], tmp_path)
    assert sorted(read(GPU, tmp_path), key=lambda v: v.operator) == [more, RIGHT]
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert json.loads(path.read_text())["identity"] == GPU  # for people as well


def test_other_operators_stay_and_the_same_are_replaced(tmp_path):
    other = replace(RIGHT, operator="tile_attention")
    write(GPU, [RIGHT, other, replace(RIGHT, call="any layout")], tmp_path)
    write(GPU, [replace(RIGHT, median=3.0)], tmp_path)
    assert read(GPU, tmp_path) == [replace(RIGHT, median=3.0), other]


@pytest.mark.parametrize("name", [name for name in GPU if name not in ("device", "name")])
def test_any_change_voids_them_and_the_log_says_which(name, tmp_path, caplog):
    write(GPU, [RIGHT], tmp_path)
    assert read({**GPU, name: "new"}, tmp_path) is None
    (line,) = caplog.messages
    assert f"A GPU: its verdicts are void ({name} {GPU[name]} -> new)" in line
    assert "attnpatch tune" in line


def test_another_gpu_is_no_change(tmp_path, caplog):
    write(GPU, [RIGHT], tmp_path)
    assert read({**GPU, "name": "Another"}, tmp_path) is None
    assert caplog.messages == []


def whole(**change):
    content = {"format": 1, "identity": GPU, "verdicts": [vars(RIGHT)]}
    return json.dumps({**content, **change})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"format": 1}',
        whole(format=2),
        whole(identity=3),
        whole(verdicts=None),
        whole(verdicts=[{}]),
        whole(verdicts=[{**vars(RIGHT), "state": "good"}]),
        whole(verdicts=[{**vars(RIGHT), "median": "fast"}]),
        whole(verdicts=[{**vars(RIGHT), "median": float("nan")}]),
        whole(verdicts=[{**vars(RIGHT), "operator": 3}]),
        whole(verdicts=[{**vars(RIGHT), "surprise": 3}]),
        whole()[:-9],
    ],
)
def test_a_corrupt_file_is_ignored_with_a_word(text, tmp_path, caplog):
    path = write(GPU, [RIGHT], tmp_path)
    path.write_text(text)
    assert read(GPU, tmp_path) is None
    assert f"{path} is ignored: " in caplog.messages[0]
    write(GPU, [RIGHT], tmp_path)  # and does not stop a new one
    assert read(GPU, tmp_path) == [RIGHT]


@given(st.binary(max_size=60))
def test_no_bytes_are_an_error(tmp_path_factory, content):
    where = tmp_path_factory.mktemp("verdicts")
    write(GPU, [RIGHT], where).write_bytes(content)
    logging.getLogger(verdicts.__name__).setLevel(logging.ERROR)
    try:
        assert read(GPU, where) is None
    finally:
        logging.getLogger(verdicts.__name__).setLevel(logging.NOTSET)


def test_a_file_of_another_identity_under_this_name_is_not_believed(tmp_path):
    path = write(GPU, [RIGHT], tmp_path)
    path.write_text(whole(identity={**GPU, "driver": "1"}))
    assert read(GPU, tmp_path) is None


def test_a_write_that_fails_changes_nothing(tmp_path, monkeypatch):
    write(GPU, [RIGHT], tmp_path)

    def full(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(verdicts.json, "dump", full)
    with pytest.raises(OSError, match="no space left"):
        write(GPU, [replace(RIGHT, median=9.0)], tmp_path)
    assert read(GPU, tmp_path) == [RIGHT]
    assert len(list(tmp_path.iterdir())) == 1


WRITER = """
import importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location("verdicts", sys.argv[1])
module = importlib.util.module_from_spec(spec)
sys.modules["verdicts"] = module
spec.loader.exec_module(module)
identity = {"device": "cuda", "name": "A GPU"}
for i in range(100):
    many = [module.Verdict("pool_tokens", "f", f"{sys.argv[3]} {j}", "right") for j in range(50)]
    module.write(identity, many, pathlib.Path(sys.argv[2]))
"""


def test_two_processes_never_leave_half_a_file(tmp_path):
    arguments = [sys.executable, "-c", WRITER, verdicts.__file__, str(tmp_path)]
    writers = [subprocess.Popen([*arguments, name]) for name in ("one", "two")]
    identity = {"device": "cuda", "name": "A GPU"}
    seen = set()
    while any(writer.poll() is None for writer in writers):
        found = read(identity, tmp_path)
        if found is not None:
            assert len(found) == 50
            seen.add(found[0].call.split()[0])
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen <= {"one", "two"}
    assert len(read(identity, tmp_path)) == 50
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("verdict", "admits", "rejects"),
    [
        (RIGHT, True, False),
        (replace(RIGHT, median=1.05, quartile=1.0), True, False),
        (replace(RIGHT, median=1.04), False, False),
        (replace(RIGHT, quartile=0.99), False, False),
        (replace(RIGHT, median=0.94, quartile=0.9), False, True),
        (replace(RIGHT, state="wrong"), False, True),
        (replace(RIGHT, state="failed"), False, True),
    ],
)
def test_a_kernel_must_be_right_and_faster(verdict, admits, rejects):
    assert (verdict.admits, verdict.rejects) == (admits, rejects)


def test_the_folder_is_where_the_system_keeps_such(monkeypatch):
    monkeypatch.setenv("ATTNPATCH_CACHE", "/somewhere")
    assert folder() == Path("/somewhere/verdicts")
    monkeypatch.delenv("ATTNPATCH_CACHE")
    for platform, variable, expected in (
        ("linux", "XDG_CACHE_HOME", "base/attnpatch/verdicts"),
        ("win32", "LOCALAPPDATA", "base/attnpatch/verdicts"),
    ):
        monkeypatch.setattr(verdicts.sys, "platform", platform)
        monkeypatch.setenv(variable, "base")
        assert folder() == Path(expected)


SHIPPED = replace(RIGHT, median=2.0)


@pytest.mark.parametrize(
    ("change", "source"),
    [
        ({}, "shipped verdict"),
        ({"driver": "600", "torch": "2.16", "name": "Its like"}, "shipped verdict"),
        ({"multiprocessors": 120}, "shipped verdict"),
        ({"multiprocessors": 110}, "no verdict"),
        ({"capability": "8.9"}, "no verdict"),
        ({"build": "other"}, "no verdict"),
    ],
)
def test_shipped_verdicts_are_for_the_like_of_a_gpu(change, source, tmp_path):
    write(GPU, [SHIPPED], tmp_path / "shipped")
    table = table_for({**GPU, **change}, tmp_path / "user", tmp_path / "shipped")
    assert table.source == source
    choice = table.choose(RIGHT.operator, RIGHT.dtype, RIGHT.call)
    assert choice.kernel == (source == "shipped verdict")


def test_the_users_verdicts_stand_above_shipped_ones(tmp_path):
    write(GPU, [SHIPPED], tmp_path / "shipped")
    write(GPU, [replace(RIGHT, median=0.5, quartile=0.4)], tmp_path / "user")
    table = table_for(GPU, tmp_path / "user", tmp_path / "shipped")
    choice = table.choose(RIGHT.operator, RIGHT.dtype, RIGHT.call)
    assert not choice.kernel
    assert choice.why == "your verdict: 0.50 times as fast as plain torch"
    # Also where the user's file says nothing: it was measured, and that class was not.
    assert not table.choose("tile_attention", RIGHT.dtype, RIGHT.call).kernel


def test_shipped_verdicts_of_this_build_can_be_read():
    assert table_for(GPU, Path("/nowhere")).source == "no verdict"
