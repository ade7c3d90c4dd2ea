# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Where results go: the folder that was named, whatever its name."""

import pytest

from attnpatch.studies.results.store import Store
from attnpatch_command.cli import main


@pytest.mark.parametrize("name", ["zip::x", "w::1", "memory:x", "a*b[1]", "a#b?c", "~x", "ü %20"])
def test_a_folder_is_the_one_that_was_named(name, tmp_path):
    store = Store(tmp_path / name)
    store.write("a/b.txt", b"here")
    assert (tmp_path / name / "a/b.txt").read_bytes() == b"here" == store.read("a/b.txt")
    assert store.names("a") == ["a/b.txt"] and store.has("a/b.txt")
    assert store.folder == tmp_path / name


def test_a_relative_folder_is_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Store("::x").write("a.txt", b"here")
    assert (tmp_path / "::x/a.txt").is_file()


@pytest.mark.parametrize("location", ["", b"x", "a\0b"])
def test_what_is_no_folder(location):
    with pytest.raises(ValueError, match="folder: expected a path or an address, got"):
        Store(location)


@pytest.mark.parametrize(
    "name", ["../../evil", "/tmp/evil", "", ".", "..", "a/b", r"a\\b", "a\\u0000", "w::1", "~root"]
)
def test_a_name_that_leads_elsewhere_is_no_folder(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.toml").write_text(f'name = "{name}"\n[model]\nsource = "attnpatch/fashion"')
    assert main(["sweep", "study.toml"]) == 1
    assert "name: expected one that a folder may have" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study.toml"]
