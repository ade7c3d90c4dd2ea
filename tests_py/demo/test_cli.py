# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

import sys

import pytest
from PIL import Image

from attnpatch.demo import store
from attnpatch.demo.embedded import EmbeddedModel
from attnpatch.demo.output import check_output
from attnpatch.demo.runner import StepSchedule, change
from attnpatch.demo.variants import SMALL_REDUCTIONS, plan
from attnpatch_command import demo as command
from attnpatch_command.cli import main


def demo(tmp_path, *arguments):
    output = tmp_path / "sheets" / "demo.png"
    return main(["demo", "--output", str(output), *arguments]), output


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


def test_items_are_those_that_the_package_carries():
    assert len(command.ITEMS) == len(store.load_references().images)


@pytest.fixture
def never(monkeypatch):
    """Let no model be made."""
    monkeypatch.setattr(command, "_run_embedded", lambda args: pytest.fail("a model was made"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a file/sheet.png", "--output: expected a file in a folder, got "),
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
    assert main([verb, "--output", str(tmp_path / name)]) == 1
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
    (file := tmp_path / "file").touch()
    own = ["--model", str(file), "--adapter", str(file), "--device", "nope"]
    image = ["--image", str(file)] if verb == "demo" else []
    output = ["--output", str(tmp_path / "sheet.png")]
    assert main([verb, *own, *image, *output]) == 1
    assert "--device: expected one that is here, got nope" in capsys.readouterr().err


def test_a_module_of_ours_that_is_missing_is_no_package_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "attnpatch.demo.output", None)
    with pytest.raises(ModuleNotFoundError, match=r"attnpatch\.demo\.output"):
        main(["demo"])
