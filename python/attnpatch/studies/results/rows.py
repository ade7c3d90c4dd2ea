# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Records as rows of a table: one column for each axis, argument and measure."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

from attnpatch.studies.results.records import Record
from attnpatch.studies.results.store import Store

__all__ = ["as_csv", "as_rows", "cell_of_table", "write_tables"]


def as_rows(records: Iterable[Record], axes: Sequence[str]) -> list[dict[str, Any]]:
    """Return one row for each record, all with the same columns.

    Lists and tables are texts, as JSON has them; what a record lacks is None.
    """
    records = list(records)
    measures = sorted({name for record in records for name in record["measures"]})
    arguments = sorted({n for record in records for n in record["pipeline"]} - set(axes))
    rows = []
    for record in records:
        row: dict[str, Any] = {"id": record["id"], "patched": record["patched"]}
        # An axis that is an argument has its value in every cell, also where no axis leads there.
        values = {**record["pipeline"], **record["place"]}
        row |= {name: cell_of_table(values.get(name)) for name in axes}
        row |= {name: cell_of_table(record["pipeline"].get(name)) for name in arguments}
        row |= {name: record["measures"].get(name) for name in measures}
        row |= {"seconds_per_step": record["seconds_per_step"], "file": record["file"]}
        rows.append(row)
    return rows


def write_tables(rows: Sequence[Mapping[str, Any]], store: Store) -> bool:
    """Write ``table.csv``, and ``table.parquet`` where pyarrow is installed; whether that was."""
    store.write("table.csv", as_csv(rows).encode())
    try:
        pyarrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        return False
    columns = {}
    for name in _names(rows):
        values = _column([row.get(name) for row in rows])
        low, high = _bounds(values)
        signed = low >= -(2**63) and high < 2**63
        if not signed and not (low >= 0 and high < 2**64):
            values = [None if value is None else str(value) for value in values]
            signed = True
        # Some seeds need all of 64 bits.
        columns[name] = pyarrow.array(values, None if signed else pyarrow.uint64())
    file = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), file)
    store.write("table.parquet", file.getvalue())
    return True


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV, with the names of the columns."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _names(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(rows[0]) if rows else ["id"]


def cell_of_table(value: Any) -> Any:
    """Return a value as a row has it: lists and tables as JSON."""
    if isinstance(value, tuple):
        value = list(value)
    return json.dumps(value) if isinstance(value, list | dict) else value


def _bounds(values: Iterable[object]) -> tuple[int, int]:
    """Return the least and the largest of the whole numbers among values."""
    numbers = [value for value in values if isinstance(value, int)] or [0]
    return min(numbers), max(numbers)


def _column(values: list[Any]) -> list[Any]:
    """Give values of one type: texts where they are of several."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and len(kinds) == 2:
        return [None if value is None else float(value) for value in values]
    if len(kinds) > 1:
        return [None if value is None else str(value) for value in values]
    return values
