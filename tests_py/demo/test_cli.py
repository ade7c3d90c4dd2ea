# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

import argparse
import sys

import pytest
from PIL import Image

from attnpatch.cli import main
from attnpatch.demo import cli, store
from attnpatch.demo.embedded import EmbeddedModel
from attnpatch.demo.output import check_output
from attnpatch.demo.runner import StepSchedule, change
from attnpatch.demo.variants import SMALL_REDUCTIONS, plan


def demo(tmp_path, *arguments):
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    output = tmp_path / "sheets" / "demo.png"
    return cli.run(parser.parse_args(["--output", str(output), *arguments])), output


@pytest.mark.slow
def test_demo_shows_an_effect(tmp_path, capsys):
    status, output = demo(tmp_path, "--steps", "5", "--item", "1", "2", "--weight", "1")
    assert status == 0
    with Image.open(output) as sheet:
        assert sheet.width > 800 and sheet.height > 800
        assert sheet.convert("L").getextrema()[1] > 200
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["variant", "similarity"]
    assert [line for line in lines if line.startswith("mask both halves")]
    assert [line for line in lines if line.startswith("guidance SAG 2")]
    assert [line for line in lines if line.startswith("tokens Slothful 9")]


@pytest.mark.slow
def test_fewer_tokens_change_the_pictures_a_little():
    model = EmbeddedModel([1, 2], 3, 0)
    variants = plan([1.0])
    (prompted,) = (v for v in variants if v.group == "weight" and v.patched)
    base = model.generate(prompted, StepSchedule())
    reduced = [v for v in variants if v.group == "tokens"]
    assert {v.name for v in reduced} == SMALL_REDUCTIONS.keys()
    for variant in reduced:
        assert 0 < sum(change(model.generate(variant, StepSchedule()), base)) < 0.1


@pytest.mark.slow
def test_demo_fails_when_nothing_changes(tmp_path, capsys):
    status, output = demo(tmp_path, "--steps", "2", "--item", "1", "2", "--weight", "0")
    assert status == 1
    assert output.exists()
    assert "the image prompt had no effect" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "x"], "--adapter, --image: needed with the others"),
        (["--steps", "1"], "--steps: expected 2 or more, got 1"),
        (["--size", "100"], "--size: expected a multiple of 8, got 100"),
        (["--item", "3", "200"], "--item: expected 0 to 199, got 200"),
        (["--weight", "1", "nan"], "--weight: expected finite numbers, got nan"),
        (["--device", "cuda", "--size", "64"], "--size, --device: expected with --model"),
    ],
)
def test_arguments_that_do_not_fit(tmp_path, capsys, arguments, message):
    assert demo(tmp_path, *arguments)[0] == 2
    assert message in capsys.readouterr().err


def test_items_are_those_that_the_package_carries():
    assert len(cli.ITEMS) == len(store.load_references().images)


@pytest.mark.parametrize("verb", ["demo", "face", "play", "sweep", "inspect", "convert", "tune"])
def test_a_misspelled_option_is_answered_with_the_usage_of_its_verb(capsys, verb):
    words = {"sweep": ["a"], "inspect": ["a"], "convert": ["a", "b"]}.get(verb, [])
    with pytest.raises(SystemExit, match="2"):
        main([verb, *words, "--misspelled"])
    said = capsys.readouterr().err
    assert said.startswith(f"usage: attnpatch {verb} ")
    assert said.endswith(f"attnpatch {verb}: error: unrecognized arguments: --misspelled\n")


@pytest.fixture
def never(monkeypatch):
    """Let no model be made."""
    monkeypatch.setattr(cli, "_run_embedded", lambda args: pytest.fail("a model was made"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a file/sheet.png", "cannot be written"),
        ("a file/deeper/sheet.png", "cannot be written"),
        ("a folder.png", "cannot be written: Is a directory"),
        ("a file", "--output: expected a name that ends in .png, got "),
        ("sheet.mp4", "--output: expected a name that ends in .png, got "),
    ],
)
@pytest.mark.parametrize("verb", ["demo", "face"])
def test_a_sheet_that_cannot_be_written_is_told_before_it_is_made(
    tmp_path, capsys, never, verb, name, message
):
    (tmp_path / "a file").touch()
    (tmp_path / "a folder.png").mkdir()
    assert main([verb, "--output", str(tmp_path / name)]) == {"demo": 2, "face": 1}[verb]
    assert message in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"a file", "a folder.png"}


def test_a_place_for_a_sheet_is_left_as_it_was(tmp_path):
    check_output(tmp_path / "new" / "sheet.png")
    assert list((tmp_path / "new").iterdir()) == []
    old = tmp_path / "old.jpg"
    old.write_bytes(b"a picture")
    check_output(old)
    assert old.read_bytes() == b"a picture"


@pytest.mark.parametrize("verb", ["demo", "face"])
def test_a_device_that_is_not_here_is_named(tmp_path, capsys, verb):
    own = ["--model", "x", "--adapter", "y", "--device", "nope"]
    image = ["--image", "z"] if verb == "demo" else []
    output = ["--output", str(tmp_path / "sheet.png")]
    assert main([verb, *own, *image, *output]) == {"demo": 2, "face": 1}[verb]
    assert "--device: expected one that is here, got nope" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["demo", "face", "play", "sweep"])
def test_a_package_that_is_missing_is_named_with_what_brings_it(capsys, monkeypatch, verb):
    words = ["study.toml"] if verb == "sweep" else []
    for name in list(sys.modules):
        if name.startswith(("attnpatch.demo.", "attnpatch.studies.", "attnpatch.playground.")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert main([verb, *words]) == 1
    said = capsys.readouterr().err
    extra = {"face": "demo"}.get(verb, verb)
    assert said == (
        f'attnpatch {verb}: PIL is not installed: "{sys.executable}" -m pip install '
        f'"attnpatch[{extra}]"\n'
    )


def test_a_module_of_ours_that_is_missing_is_no_package_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "attnpatch.demo.output", None)
    with pytest.raises(ModuleNotFoundError, match=r"attnpatch\.demo\.output"):
        main(["demo"])
