# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What is done: the record of each cell, in a file for each batch that was finished."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypedDict, get_origin, get_type_hints

from attnpatch.studies.axes import Axes
from attnpatch.studies.results.png import is_whole
from attnpatch.studies.results.store import Store
from attnpatch.studies.table import plain

__all__ = [
    "Entry",
    "Record",
    "Swept",
    "done",
    "has_begun",
    "is_done",
    "picture_name",
    "placed",
    "read_order",
    "require_free",
    "undamaged",
    "write_order",
    "write_records",
]


class _Written(TypedDict):
    id: str
    place: Mapping[str, Any]
    pipeline: Mapping[str, Any]
    patched: bool
    file: str
    seconds_per_step: float
    rows: int
    steps: int
    measures: dict[str, float]


class Record(_Written, total=False):
    """What is written of a cell, as JSON has it; and what ``placed`` adds of the study."""

    places: Sequence[Mapping[str, Any]]
    asked: bool


logger = logging.getLogger("attnpatch")
_FOLDER, _ORDER = "records", "cells.json"
_NAMES = (
    _ORDER,
    "index.html",
    "page",
    "pictures",
    _FOLDER,
    "sheet.png",
    "study.safetensors",
    "study.toml",
    "table.csv",
    "table.parquet",
    "tensors",
)
# What JSON reads them as; a number may be a whole one.
_TYPES = {
    name: (int, float) if kind is float else get_origin(kind) or kind
    for name, kind in get_type_hints(_Written).items()
}


class Entry(NamedTuple):
    """A cell of a study, done or not, and where it stands on the axes that the study has now."""

    id: str
    places: tuple[Mapping[str, Any], ...]
    """Values of the axes; several where a patch is off, and its values make no difference."""
    asked: bool = True
    """False: an unpatched picture beside, which others are measured against."""


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
    name = picture_name(cell_id)
    return store.has(_name([cell_id])) and store.has(name) and is_whole(store, name)


def _name(ids: Iterable[str]) -> str:
    digest = hashlib.sha256("".join(sorted(ids)).encode()).hexdigest()
    return f"{_FOLDER}/{digest[:16]}.json"


def write_order(store: Store, order: Sequence[Entry]) -> None:
    """Write which cells a study has, done or not, in its order."""
    entries = [entry._replace(places=plain(entry.places))._asdict() for entry in order]
    store.write(_ORDER, json.dumps(entries, allow_nan=False).encode())


def has_begun(store: Store) -> bool:
    """Whether a sweep has written here; files of these names alone may be the user's own."""
    if store.exists(_FOLDER):
        return store.has(_ORDER) or store.has("study.toml")
    try:
        return bool(read_order(store))
    except (FileNotFoundError, ValueError):
        return False


def require_free(store: Store) -> None:
    """Make sure that a sweep that begins writes over no files of others.

    Raises
    ------
    FileExistsError
        Naming them.
    """
    others = [name for name in _NAMES if store.exists(name)]
    if others:
        raise FileExistsError(
            f"{store.location}: expected a folder without files of the names that results have, "
            f"got {', '.join(others)}; give another folder"
        )


def read_order(store: Store) -> list[Entry]:
    """Return what ``write_order`` wrote.

    Raises
    ------
    FileNotFoundError, ValueError
        Where it is missing or damaged.
    """
    path = store.path(_ORDER)
    if not store.has(_ORDER):
        raise FileNotFoundError(f"{path}: missing; resume the sweep to write it again")
    try:
        entries = json.loads(store.read(_ORDER))
        if not isinstance(entries, list):
            raise TypeError(f"expected a list, got {type(entries).__name__}")
        return [Entry(one["id"], tuple(one["places"]), one["asked"]) for one in entries]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: damaged; resume the sweep to write it again") from error


def placed(order: Iterable[Entry], records: Mapping[str, Record]) -> list[Record]:
    """Return the records of a study's cells that are done, in its order and at its places.

    A record that a smaller study left has that study's place; `order` knows the present one.
    """
    return [
        {
            **records[entry.id],
            "place": plain(entry.places[0]),
            "places": plain(entry.places),
            "asked": entry.asked,
        }
        for entry in order
        if entry.id in records
    ]


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
        for record in _read(store, name):
            one = record["id"]
            if record["file"] in there and (wanted is None or one in wanted):
                # A cell that was measured once more has several records.
                before = found[one]["measures"] if one in found else {}
                found[one] = {**record, "measures": {**before, **record["measures"]}}
    return found


def undamaged(store: Store, records: Mapping[str, Record]) -> dict[str, Record]:
    """Return the records whose pictures are whole; a warning names the others. Reads them all."""
    found = {}
    for cell, record in records.items():
        if is_whole(store, record["file"]):
            found[cell] = record
        else:
            logger.warning("%s: damaged, its cell counts as not done", store.path(record["file"]))
    return found


def _read(store: Store, name: str) -> list[Record]:
    """Return the records of a file; of one that is damaged none, so that its cells are remade."""
    try:
        records = json.loads(store.read(name))
    except ValueError:
        records = None
    if isinstance(records, list) and all(map(_is_record, records)):
        return records
    logger.warning("%s: damaged, its cells count as not done", store.path(name))
    return []


def _is_record(record: object) -> bool:
    """Whether a record has all that is written of a cell."""
    return (
        isinstance(record, dict)
        and all(isinstance(record.get(name), kind) for name, kind in _TYPES.items())
        and all(map(_is_number, (record["seconds_per_step"], *record["measures"].values())))
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
