# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The page: one static HTML file, and its data as scripts that it loads from the disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attnpatch.studies.results.records import Record, Swept
from attnpatch.studies.results.store import Store

__all__ = ["write_page"]

_TEMPLATE = Path(__file__).parent / "page.html"
_CHUNK = 5000  # cells of a script


def write_page(study: Swept, records: Sequence[Record], cells: int, store: Store) -> None:
    """Write ``index.html`` and ``page/*.js``.

    A page that is opened from the disk may not fetch files, but may run scripts: each calls
    ``sweep.add`` with its part of the cells, whose axes' values are numbers of a list.
    """
    names = list(study.axis_names)
    measures = sorted({name for record in records for name in record["measures"]})
    values: list[dict[str, int]] = [_axis_values(study, name, records) for name in names]
    rows = [
        _row(record, place, names, values, measures)
        for record in records
        for place in record["places"]
    ]
    chunks = [rows[place : place + _CHUNK] for place in range(0, len(rows), _CHUNK)]
    for number, chunk in enumerate(chunks):
        store.write(f"page/cells-{number:03}.js", f"sweep.add({_script(chunk)});\n".encode())
    head = {
        "name": study.name,
        "model": study.source,
        "cells": cells,
        "chunks": len(chunks),
        "axes": [
            {"name": name, "values": list(found)} for name, found in zip(names, values, strict=True)
        ],
        "measures": measures,
    }
    page = _TEMPLATE.read_text(encoding="utf-8")
    store.write("page/head.js", f"sweep.begin({_script(head)});\n".encode())
    store.write("index.html", page.encode())


def _axis_values(study: Swept, name: str, records: Sequence[Record]) -> dict[str, int]:
    """Return an axis' values as texts, numbered: in the study's order, drawn ones by size."""
    found: dict[str, object] = {}
    drawn = False
    for axes in study.axes:
        if name in axes.names:
            drawn = axes.join == "random"
    for place in (place for record in records for place in record["places"]):
        if name in place:
            found.setdefault(json.dumps(place[name]), place[name])
    texts = list(found)
    numbers = {text: value for text, value in found.items() if isinstance(value, int | float)}
    if drawn and len(numbers) == len(found):
        texts.sort(key=numbers.__getitem__)
    return {text: number for number, text in enumerate(texts)}


def _row(
    record: Record,
    place: Mapping[str, Any],
    names: Sequence[str],
    values: Sequence[dict[str, int]],
    measures: Sequence[str],
) -> list[object]:
    """Return a cell as the page reads it: id, asked for, places on the axes, measures, time."""
    places = [
        found[json.dumps(place[name])] if name in place else -1
        for name, found in zip(names, values, strict=True)
    ]
    numbers = [record["measures"].get(name) for name in measures]
    rounded = [None if number is None else float(f"{number:.6g}") for number in numbers]
    return [
        record["id"],
        int(record["asked"]),
        places,
        rounded,
        float(f"{record['seconds_per_step']:.4g}"),
    ]


def _script(value: object) -> str:
    """Return JSON that is a script as well, whatever texts are in it."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
