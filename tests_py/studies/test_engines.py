# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Engines that lose workers: nothing is lost, nothing is twice, and the pictures are the same."""

from collections import Counter

import pytest

import attnpatch as ap
from attnpatch.studies.engines import make_engine
from attnpatch.studies.plan import make_plan
from attnpatch.studies.results.records import done
from attnpatch.studies.results.store import Store
from attnpatch.studies.run import all_cells
from deadly_measures import KilledAlways, KilledOnce, Process, Wrong
from engine_cases import FASHION, STYLE, assert_same, here, make  # noqa: F401

pytestmark = pytest.mark.slow


def test_processes_that_are_killed(here, tmp_path, caplog):  # noqa: F811
    results = ap.run_study(
        make(),
        tmp_path / "out",
        engine="processes",
        workers=2,
        rows=2,
        measures={"process": KilledOnce(tmp_path, seed=1)},
        progress=False,
    )
    assert (tmp_path / "killed").exists()
    assert "one ended with -9" in caplog.text
    assert len({row["process"] for row in results}) >= 2
    assert_same(results, here)


def test_workers_start_once(tmp_path):
    """Also where pictures without patches are shared by several pieces, and so are made before."""
    axes = {"fewer.ratio": [0.25, 0.5]}
    patches = {"fewer": {"kind": "TokenMerging"}}
    study = ap.Study(FASHION, patches, axes, {"steps": 1})
    plan = make_plan(all_cells(study))
    assert plan.first and plan.then
    options = {"engine": "processes", "workers": 1, "progress": False}
    results = ap.run_study(study, tmp_path, measures={"process": Process()}, **options)
    assert len(results) == 3 and len({row["process"] for row in results}) == 1


def test_cells_that_kill_every_process_end_the_sweep(tmp_path):
    study = ap.Study(FASHION, {"style": STYLE}, pipeline={"steps": 1}, unpatched=False)
    options = {"engine": "processes", "workers": 1, "progress": False}
    with pytest.raises(RuntimeError, match="4 of them ended in the same 1 cells"):
        ap.run_study(study, tmp_path, measures={"dead": KilledAlways()}, **options)


def test_an_error_in_a_process_is_the_users(tmp_path):
    study = ap.Study(FASHION, {"style": STYLE}, pipeline={"steps": 1}, unpatched=False)
    with pytest.raises(ValueError, match="picture: expected a better one"):
        ap.run_study(
            study,
            tmp_path,
            engine="processes",
            workers=1,
            measures={"wrong": Wrong()},
            progress=False,
        )


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("process", {}, "did you mean 'processes'"),
        ("here", {"workers": 2}, "workers: the engine 'here' has none"),
        ("processes", {"workers": 0}, "workers: expected a whole number of at least 1, got 0"),
        ("processes", {"address": "auto"}, "address: the engine 'processes' has none"),
    ],
)
def test_wrong_engines(name, options, text):
    with pytest.raises(ValueError, match=text):
        make_engine(name, **options)


def test_the_last_record_of_a_cell_counts_once(here):  # noqa: F811
    store = Store(here.location)
    ids = [record["id"] for record in done(store).values()]
    assert max(Counter(ids).values()) == 1
