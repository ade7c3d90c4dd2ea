# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A small study for engines, its results in this process, and what all engines' have to be."""

import numpy as np
import pytest

import attnpatch as ap
from attnpatch.studies.results.records import done
from attnpatch.studies.results.store import Store

FASHION = "attnpatch/fashion"
STYLE = {"kind": "ImagePrompt", "adapter": FASHION, "picture": f"{FASHION}:3"}
AXES = {"style.weight": [0.2, 0.9], "seed": [0, 1, 2], "steps": [2, 3]}


def make():
    return ap.Study(FASHION, {"style": STYLE}, AXES, name="engines")


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
    store = Store(results.location)
    assert len(store.names("pictures")) == len(here) == len(done(store))
