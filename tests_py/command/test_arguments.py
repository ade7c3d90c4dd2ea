# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Help and errors in arguments come without torch, and name the argument."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest

from attnpatch_command import packages, play
from attnpatch_command.cli import VERBS, main

NAMES = [verb.name for verb in VERBS]
# Where nothing but the standard library can be imported.
ALONE = """
import sys

class Barred:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {*sys.stdlib_module_names, "attnpatch_command"}:
            raise ModuleNotFoundError(f"{name} is barred")

sys.meta_path.insert(0, Barred())
import attnpatch_command
sys.exit(attnpatch_command.main())
"""
NEEDED = {"sweep": ["{file}"], "inspect": ["{file}"], "convert": ["{file}", "new.safetensors"]}
"""What a verb must be given, with a file that is there."""


def alone(*words):
    return subprocess.run(
        [sys.executable, "-c", ALONE, *words], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("verb", NAMES)
def test_help_needs_the_standard_library_alone(verb):
    done = alone(verb, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: attnpatch {verb} ")


def test_the_program_says_what_it_can_and_which_it_is():
    listed = alone("--help").stdout
    assert all(f"\n    {verb.name}" in listed and verb.summary[:40] in listed for verb in VERBS)
    assert alone("--version").stdout == f"attnpatch {packages.version('attnpatch')}\n"


def test_errors_in_arguments_need_the_standard_library_alone():
    done = alone("demo", "--size", "4")
    assert done.returncode == 2
    assert done.stderr.endswith("argument --size: expected a multiple of 8, got 4\n")


def refused(capsys, *words):
    """Return what a verb says of wrong arguments, in one line after its usage."""
    with pytest.raises(SystemExit, match="2"):
        main(words)
    said = capsys.readouterr().err
    assert said.startswith(f"usage: attnpatch {words[0]} ")
    begin = f"\nattnpatch {words[0]}: error: "
    assert said.count(begin) == 1
    return said.partition(begin)[2]


@pytest.mark.parametrize("verb", NAMES)
def test_a_misspelled_option_is_answered_with_the_usage_of_its_verb(tmp_path, capsys, verb):
    (file := tmp_path / "file").touch()
    words = [word.format(file=file) for word in NEEDED.get(verb, ())]
    said = refused(capsys, verb, *words, "--misspelled")
    assert said == "unrecognized arguments: --misspelled\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("demo --model {file}", "--adapter, --image: needed with the others of --model, --ad"),
        ("face --model {file}", "--adapter: needed with the others of --model, --adapter"),
        ("play --adapter {file}", "--model: needed with the others of --model, --adapter"),
        ("demo --device cuda --size 64", "--size, --device: expected with --model, --adapter, "),
        ("face --steps 3", "--steps: expected with --model, --adapter, the small model heeds none"),
        ("play --steps 3 --device cpu", "--steps, --device: expected with --model, --adapter"),
        ("demo --steps 1", "argument --steps: expected 2 or more, got 1"),
        ("demo --steps many", "argument --steps: expected 2 or more, got many"),
        ("demo --item 3 200", "argument --item: expected 0 to 199, got 200"),
        ("demo --weight 1 nan", "argument --weight: expected a finite number, got nan"),
        ("demo --weight 1 one", "argument --weight: expected a finite number, got one"),
        ("demo --guidance inf", "argument --guidance: expected a finite number, got inf"),
        ("demo --seed -1", "argument --seed: expected 0 to 4294967295, got -1"),
        ("demo --size 100", "argument --size: expected a multiple of 8, got 100"),
        ("demo --size 0", "argument --size: expected a multiple of 8, got 0"),
        ("demo --size -8", "argument --size: expected a multiple of 8, got -8"),
        ("face --steps 0", "argument --steps: expected 1 or more, got 0"),
        ("play --port 80000", "argument --port: expected 0 to 65535, got 80000"),
        ("play --steps 101", "argument --steps: expected 2 to 100, got 101"),
        ("play --size 36", "argument --size: expected a multiple of 8, 32 to 2048, got 36"),
        ("sweep {file} --workers 0", "argument --workers: expected 1 or more, got 0"),
        ("sweep {file} --rows -1", "argument --rows: expected 1 or more, got -1"),
        ("tune --seconds 0", "argument --seconds: expected a number above 0, got 0"),
        ("tune --device gpu", "argument --device: expected cpu, cuda or cuda:N, got 'gpu'"),
        ("demo --model no.safetensors", "argument --model: expected a file or folder that is th"),
        ("play --model none", "argument --model: expected a file or folder that is there, or an I"),
        ("demo --image-encoder a/b/c", "argument --image-encoder: expected a file or folder that"),
        ("face --adapter none", "argument --adapter: expected a file or folder that is there, got"),
        ("demo --image {file} none", "argument --image: expected a file that is there, got 'none'"),
        ("demo --image {folder}", "argument --image: expected a file, got the folder '"),
        ("face {folder}", "argument picture: expected a file, got the folder '"),
        ("sweep {folder}", "argument study: expected a file, got the folder '"),
        ("sweep none.toml", "argument study: expected a file that is there, got 'none.toml'"),
        ("inspect {file} none", "argument FILE: expected a file or folder that is there, got 'non"),
        ("convert h94/IP-Adapter out", "argument source: expected a file or folder that is there"),
        ("convert {file} {file}", "target: expected a new file, got {file}, which --force overw"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    (file := tmp_path / "file").touch()
    given = [word.format(file=file, folder=tmp_path) for word in words.split()]
    assert refused(capsys, *given).startswith(said.format(file=file))


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb.needs], ids=lambda verb: verb.name)
def test_a_package_that_is_missing_is_named_with_what_brings_it(
    tmp_path, monkeypatch, capsys, verb
):
    (file := tmp_path / "file").touch()
    words = [word.format(file=file) for word in NEEDED.get(verb.name, ())]
    for name in verb.needs:
        with monkeypatch.context() as without:
            without.setitem(sys.modules, name, None)
            assert main([verb.name, *words]) == 1
        assert capsys.readouterr().err == (
            f"attnpatch {verb.name}: {name} is not installed: "
            f'"{sys.executable}" -m pip install "attnpatch[{verb.extra}]"\n'
        )


def test_the_playground_is_for_this_machine_alone_unless_told_otherwise():
    play.add_arguments(parser := argparse.ArgumentParser())
    assert parser.parse_args([]).host == "127.0.0.1"
