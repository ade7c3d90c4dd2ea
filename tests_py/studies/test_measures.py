# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Measures of the user: what they may be, where they fail, and cells that lack them."""

import logging

import numpy as np
import pytest
import torch

import attnpatch as ap
from attnpatch.studies.measures import named_measures

pytestmark = pytest.mark.slow

FASHION = "attnpatch/fashion"
STYLE = {"kind": "ImagePrompt", "adapter": FASHION, "picture": f"{FASHION}:3"}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def sweep(fashion, folder):
    """Run a study of one step into one folder."""

    def run(measures=None, weights=(0.3, 0.9), *, unpatched=False, **options):
        axes = {"style.weight": list(weights)}
        study = ap.Study(FASHION, {"style": STYLE}, axes, {"steps": 1}, unpatched=unpatched)
        options = {"model": fashion, "resume": True, "progress": False, **options}
        return ap.run_study(study, folder, measures=measures, **options)

    return run


def bright(picture, cell):
    return np.asarray(picture).mean() / 255


@pytest.mark.parametrize(
    ("measures", "text"),
    [
        ({"x": 3}, "measures: expected functions of a picture and its cell, got 3 as 'x'"),
        *(
            ({name: bright}, f"measures: expected a name that no other column .*, got {name!r}")
            for name in ("id", "patched", "file", "seconds_per_step", "similarity", "distance")
        ),
        ({"seed": bright}, "no other column of the table has, got 'seed'"),
        ({"style.weight": bright}, "no other column of the table has, got 'style.weight'"),
        ({"": bright}, "no other column of the table has, got ''"),
    ],
)
def test_wrong_measures_are_found_before_anything_runs(sweep, folder, measures, text):
    with pytest.raises((TypeError, ValueError), match=text):
        sweep(measures)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"engine": 3}, "engine: expected its name, or an Engine without options, got 3"),
        ({"rows": 0}, "rows: expected a whole number of at least 1, got 0"),
        ({"model": "x"}, "model: expected a pipeline of diffusers, or a Model, got 'x'"),
        ({"model": None, "engine": "processes", "workers": "2"}, "workers: expected a whole .*'2'"),
        (
            {"model": None, "engine": "processes", "measures": {"m": lambda picture, cell: 1.0}},
            "measures: expected functions of a module, which processes can import",
        ),
    ],
)
def test_wrong_arguments_leave_no_folder(sweep, folder, options, text):
    with pytest.raises((TypeError, ValueError), match=text):
        sweep(**options)
    assert not folder.exists()


def test_a_study_is_no_path(folder):
    with pytest.raises(TypeError, match=r"study: expected a Study, got 'x.toml'; Study.load reads"):
        ap.run_study("x.toml", folder)


def test_a_name_stands_once_on_the_command_line():
    with pytest.raises(ValueError, match="--measure: expected each name once, got 'sqrt' again"):
        named_measures(["math:sqrt", "cmath:sqrt"])


def test_any_real_number_is_a_measure(sweep):
    found = sweep(
        {
            "a": lambda picture, cell: np.float32(0.5),
            "b": lambda picture, cell: np.int64(3),
            "c": lambda picture, cell: torch.tensor(0.25),
        }
    )
    assert [(row["a"], row["b"], row["c"]) for row in found] == [(0.5, 3.0, 0.25)] * 2


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda picture, cell: 1 / 0, "measure bad: ZeroDivisionError: division by zero, of the"),
        (lambda picture, cell: "x", "measure bad: expected a finite number, got 'x', of the cell"),
        (lambda picture, cell: np.nan, "measure bad: expected a finite number, got nan"),
    ],
)
def test_pictures_outlive_a_measure_that_fails(sweep, folder, function, text):
    with pytest.raises(ValueError, match=text):
        sweep({"bright": bright, "bad": function})
    kept = ap.load_study(folder)
    assert len(kept) == 2 and all(row["bright"] > 0 for row in kept) and "bad" not in kept[0]
    assert "bright" in (folder / "table.csv").read_text()
    before = [(folder / row["file"]).stat().st_mtime_ns for row in kept]
    mended = sweep({"bright": bright, "bad": lambda picture, cell: 7.0})
    assert [row["bad"] for row in mended] == [7.0] * 2
    assert [(folder / row["file"]).stat().st_mtime_ns for row in mended] == before


def test_cells_get_the_measures_that_they_lack(sweep, folder):
    sweep(weights=[0.3])
    grown = sweep({"bright": bright}, [0.3, 0.9], unpatched=True)
    at_once = sweep({"bright": bright}, [0.3, 0.9], unpatched=True)
    assert list(grown) == list(at_once)
    old, new, plain = grown
    for place, row in enumerate(grown):
        assert row["bright"] == bright(grown.picture(place), None)
    assert plain["distance"] is None and new["distance"] > 0
    pictures = [np.asarray(grown.picture(place), np.float64) for place in (0, 2)]
    expected = np.abs(pictures[0] - pictures[1]).mean() / 255
    assert old["distance"] == pytest.approx(expected, rel=1e-5) and expected > 0
    with pytest.raises(ValueError, match="measure bad: ZeroDivisionError"):
        sweep({"bad": lambda picture, cell: 1 / 0}, unpatched=True)


@pytest.mark.parametrize("damage", ["empty", "one bit"])
def test_a_damaged_picture_is_named_and_made_again(sweep, folder, caplog, damage):
    first = sweep()
    picture, file = np.asarray(first.picture(0), int), folder / first[0]["file"]
    data = bytearray(file.read_bytes())
    data[data.index(b"IDAT") + 20] ^= 1
    file.write_bytes(b"" if damage == "empty" else data)
    with pytest.raises(ValueError, match=f"{file}: expected a picture, got a damaged file; resume"):
        ap.load_study(folder).picture(0)
    with caplog.at_level(logging.WARNING):
        again = sweep({"bright": bright})
    assert caplog.text.count(f"{file}: damaged, its cell counts as not done") == 1
    assert np.abs(np.asarray(again.picture(0), int) - picture).max() <= 1  # of another batch
    assert all(row["bright"] > 0 for row in again)


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"3", b'{"a": 1}'])
def test_cells_of_a_damaged_record_are_made_again(sweep, folder, caplog, data):
    sweep()
    (record,) = (folder / "records").iterdir()
    record.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert len(ap.load_study(folder)) == 0
    assert f"{record}: damaged, its cells count as not done" in caplog.text
    assert len(sweep()) == 2


def test_pictures_of_other_cells_are_named(sweep, caplog):
    sweep()
    with caplog.at_level(logging.WARNING):
        assert len(sweep(weights=[0.9])) == 1
    assert "1 pictures are of cells that the study does not have" in caplog.text
