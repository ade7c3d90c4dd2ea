# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What is done: the record of each cell, in a file for each batch that was finished."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from attnpatch.studies.axes import Axes
from attnpatch.studies.results.store import Store

__all__ = [
    "Record",
    "Swept",
    "done",
    "is_done",
    "picture_name",
    "read_order",
    "write_order",
    "write_records",
]

Record = dict[str, Any]
"""id, place, pipeline, patched, file, seconds per step, measures: as JSON has them."""
_FOLDER, _ORDER = "records", "cells.json"


class Swept(Protocol):
    """What results need to know of a study of any kind."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def source(self) -> str:
        """What makes the pictures."""
        ...

    @property
    def axes(self) -> tuple[Axes, ...]:
        """What is varied."""
        ...

    @property
    def axis_names(self) -> tuple[str, ...]:
        """The parameters that are varied, in order."""
        ...


def picture_name(cell_id: str) -> str:
    """Return where a cell's picture lies: not too many in one folder."""
    return f"pictures/{cell_id[:2]}/{cell_id}.png"


def write_records(store: Store, records: Sequence[Record]) -> None:
    """Write the records of a batch, whose pictures are there; once more changes nothing."""
    name = _name([record["id"] for record in records])
    store.write(name, json.dumps(list(records), allow_nan=False).encode())


def is_done(store: Store, cell_id: str) -> bool:
    """Whether a cell that is a batch of its own is done."""
    return store.has(picture_name(cell_id)) and store.has(_name([cell_id]))


def _name(ids: Iterable[str]) -> str:
    digest = hashlib.sha256("".join(sorted(ids)).encode()).hexdigest()
    return f"{_FOLDER}/{digest[:16]}.json"


def write_order(store: Store, ids: Sequence[str]) -> None:
    """Write which cells a study has, done or not, in its order."""
    store.write(_ORDER, json.dumps(list(ids)).encode())


def read_order(store: Store) -> list[str]:
    """Return what ``write_order`` wrote."""
    return json.loads(store.read(_ORDER))


def done(store: Store, ids: Iterable[str] | None = None) -> dict[str, Record]:
    """Return the records of all cells whose pictures are there, each once, by their ids.

    Parameters
    ----------
    store
        The results.
    ids
        Of these cells alone.
    """
    there = set(store.names("pictures"))
    wanted = None if ids is None else set(ids)
    found: dict[str, Record] = {}
    for name in store.names(_FOLDER):
        for record in json.loads(store.read(name)):
            if record["file"] in there and (wanted is None or record["id"] in wanted):
                found[record["id"]] = record
    return found
