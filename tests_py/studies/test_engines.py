# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Engines that lose workers: nothing is lost and nothing is twice, and the pictures are the same."""

import os
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import attnpatch as ap
from attnpatch.studies.engines import make_engine
from attnpatch.studies.results.records import done
from attnpatch.studies.results.store import Store

pytestmark = pytest.mark.slow

FASHION = "attnpatch/fashion"
STYLE = {"kind": "ImagePrompt", "adapter": FASHION, "picture": f"{FASHION}:3"}
AXES = {"style.weight": [0.2, 0.9], "seed": [0, 1, 2], "steps": [2, 3]}


def make():
    return ap.Study(FASHION, {"style": STYLE}, AXES, name="engines")


class KilledOnce:
    """A measure that kills its own process at the first picture of a seed, once."""

    def __init__(self, folder, seed, signals=signal.SIGKILL):
        self.flag, self.seed, self.signal = Path(folder) / "killed", seed, signals

    def __call__(self, picture, cell):
        if cell.argument("seed") == self.seed and not self.flag.exists():
            self.flag.touch()
            os.kill(os.getpid(), self.signal)
        return float(os.getpid())


class KilledAlways:
    def __call__(self, picture, cell):
        os.kill(os.getpid(), signal.SIGKILL)


class Wrong:
    def __call__(self, picture, cell):
        raise ValueError("picture: expected a better one")


@pytest.fixture(scope="module")
def here(fashion, tmp_path_factory):
    folder = tmp_path_factory.mktemp("here")
    return ap.run_study(make(), folder, model=fashion, progress=False)


def assert_same(results, here):
    assert [row["id"] for row in results] == [row["id"] for row in here]
    for index in range(len(here)):
        a, b = (np.asarray(found.picture(index), int) for found in (results, here))
        assert np.abs(a - b).max() <= 1  # 8 bits of what differs by 1e-6
    # Every cell is in one record, and there is one file for each picture.
    store = results._store
    assert len(store.names("pictures")) == len(here) == len(done(store))


def test_processes_that_are_killed(here, tmp_path, caplog):
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
        ("processes", {"workers": 0}, "workers: expected at least 1, got 0"),
        ("processes", {"address": "auto"}, "address: the engine 'processes' has none"),
    ],
)
def test_wrong_engines(name, options, text):
    with pytest.raises(ValueError, match=text):
        make_engine(name, **options)


def test_the_last_record_of_a_cell_counts_once(here):
    store = Store(here._store.location)
    ids = [record["id"] for record in done(store).values()]
    assert max(Counter(ids).values()) == 1
