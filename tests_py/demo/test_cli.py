# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

import argparse

import pytest
from PIL import Image

from attnpatch.demo import cli
from attnpatch.demo.embedded import EmbeddedModel
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
        (["--item", "200"], "items: expected 0 to 199, got 200"),
    ],
)
def test_arguments_that_do_not_fit(tmp_path, capsys, arguments, message):
    assert demo(tmp_path, *arguments)[0] == 2
    assert message in capsys.readouterr().err
