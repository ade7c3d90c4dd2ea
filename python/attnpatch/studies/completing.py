# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Measures that cells lack which were made before these were asked for, from their pictures."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from attnpatch.studies.cells import Cell
from attnpatch.studies.measures import Measure, distance, measured
from attnpatch.studies.results.png import open_picture
from attnpatch.studies.results.records import Record, picture_name, write_records
from attnpatch.studies.results.store import Store

__all__ = ["complete"]

_BATCH = 64


def complete(
    cells: Iterable[Cell],
    finished: dict[str, Record],
    measures: Mapping[str, Measure],
    store: Store,
) -> None:
    """Measure what is missing of cells that are done; `finished` and the store get the records.

    The user's measures, and distances from unpatched pictures that were made later. The pictures'
    own metadata stay as they are.

    Raises
    ------
    ValueError
        Where a measure fails, after what the others gave was written.
    """

    @functools.lru_cache(maxsize=_BATCH)
    def levels_of(cell_id: str) -> npt.NDArray[np.uint8]:
        return np.asarray(open_picture(store, picture_name(cell_id)))

    batch: list[Record] = []
    failed: Exception | None = None
    for cell in cells:
        record = finished.get(cell.id)
        if record is None:
            continue
        there = record["measures"]
        wanted = {name: function for name, function in measures.items() if name not in there}
        before = cell.without_patches.id if cell.patches and "distance" not in there else None
        if not wanted and before not in finished:
            continue
        found, error = measured(wanted, levels_of(cell.id), cell)
        if before is not None and before in finished:
            found["distance"] = distance(levels_of(cell.id), levels_of(before))
        failed = failed or error
        finished[cell.id] = {**record, "measures": {**there, **found}}
        batch.append(finished[cell.id])
        if len(batch) == _BATCH:
            write_records(store, batch)
            batch = []
    if batch:
        write_records(store, batch)
    if failed is not None:
        raise failed
