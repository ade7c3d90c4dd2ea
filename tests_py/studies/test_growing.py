# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Results of a study whose axes have changed since, and of patches that are off."""

import csv
import json

import pyarrow.parquet
import pytest

import attnpatch as ap
from attnpatch.studies.results.rows import write_tables
from attnpatch.studies.results.store import Store

pytestmark = pytest.mark.slow

FASHION = "attnpatch/fashion"
STYLE = {"kind": "ImagePrompt", "adapter": FASHION, "picture": f"{FASHION}:3"}


@pytest.fixture
def sweep(fashion, tmp_path):
    """Run a study of one step into one folder."""

    def run(axes, measures=None, *, unpatched=False, seed=5):
        study = ap.Study(
            FASHION, {"style": STYLE}, axes, {"steps": 1, "seed": seed}, unpatched=unpatched
        )
        options = {"model": fashion, "measures": measures, "progress": False}
        return ap.run_study(study, tmp_path / "out", resume=True, **options)

    return run


def page_of(folder):
    """Return the axes of a page and its rows."""
    head = (folder / "page/head.js").read_text()
    rows = (folder / "page/cells-000.js").read_text()
    return (
        json.loads(head.removeprefix("sweep.begin(").removesuffix(");\n"))["axes"],
        json.loads(rows.removeprefix("sweep.add(").removesuffix(");\n")),
    )


def test_a_cell_stands_where_the_present_study_has_it(sweep, tmp_path):
    sweep({"style.weight": [0.3]})
    grown = sweep({"style.weight": [0.3], "seed": [5, 6]})
    assert [(row["style.weight"], row["seed"]) for row in grown] == [(0.3, 5), (0.3, 6)]
    with (tmp_path / "out/table.csv").open() as file:
        assert [row["seed"] for row in csv.DictReader(file)] == ["5", "6"]
    axes, rows = page_of(tmp_path / "out")
    assert axes[1] == {"name": "seed", "values": ["5", "6"]}
    assert [row[2] for row in rows] == [[0, 0], [0, 1]]
    assert [row["seed"] for row in ap.load_study(tmp_path / "out")] == [5, 6]


def test_an_argument_has_its_value_where_no_axis_leads(sweep):
    axes = ap.Axes.list([{"seed": 1}, {"style.weight": 0.3}])
    assert [row["seed"] for row in sweep(axes)] == [1, 5]


def test_a_seed_may_have_all_of_64_bits(sweep, tmp_path):
    sweep({"seed": [1, 2**64 - 1]})
    table = pyarrow.parquet.read_table(tmp_path / "out/table.parquet")
    assert table["seed"].to_pylist() == [1, 2**64 - 1]


@pytest.mark.parametrize("values", [[-1, 2**63], [2**64], [-(2**63) - 1]])
def test_numbers_beyond_64_bits_are_texts(values, tmp_path):
    assert write_tables([{"n": value} for value in [*values, None]], Store(tmp_path))
    table = pyarrow.parquet.read_table(tmp_path / "table.parquet")
    assert table["n"].to_pylist() == [*map(str, values), None]


def test_a_patch_that_is_off_is_a_cell_of_the_grid(sweep, tmp_path):
    found = sweep({"style.on": [True, False], "style.weight": [0.3, 0.6]}, unpatched=True)
    assert [row["patched"] for row in found] == [True, True, False]
    _, rows = page_of(tmp_path / "out")
    # One picture at both weights, none of them beside the grid.
    assert [row[1:3] for row in rows] == [[1, [0, 0]], [1, [0, 1]], [1, [1, 0]], [1, [1, 1]]]
    assert rows[2][0] == rows[3][0]
