# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The contact sheet: pictures side by side, with the values that lead to them."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

from PIL import Image

from attnpatch.demo.sheet import Section, Tile, contact_sheet
from attnpatch.studies.results.records import Record
from attnpatch.studies.results.store import Store
from attnpatch.studies.study import Study

__all__ = ["write_sheet"]

_MOST = 240
_COLUMNS = 12
_EDGE = 208  # of a picture on the sheet, in pixels


def write_sheet(study: Study, records: Sequence[Record], store: Store) -> None:
    """Write ``sheet.png``, the last axis from left to right; of many cells a part of them."""
    step = max(1, -(-len(records) // _MOST))
    shown = list(records[::step])
    columns = _columns(study, step)
    rows = [shown[place : place + columns] for place in range(0, len(shown), columns)]
    section = Section(
        study.name,
        ", ".join(study.axis_names) or "one cell",
        tuple(tuple(_tile(record, store) for record in row) for row in rows),
    )
    part = "" if step == 1 else f", every {step}th of {len(records)}"
    sheet = contact_sheet("Sweep", f"{study.model['source']}{part}", (section,))
    file = io.BytesIO()
    sheet.save(file, "png")
    store.write("sheet.png", file.getvalue())


def _columns(study: Study, step: int) -> int:
    """Return how many pictures are in a row: as many as the last axis has values."""
    axes = study.axes[-1] if study.axes else None
    if step > 1 or axes is None or axes.join != "grid" or not axes.values:
        return _COLUMNS
    return min(len(list(axes.values.values())[-1]), _COLUMNS)


def _tile(record: Record, store: Store) -> Tile:
    with Image.open(io.BytesIO(store.read(record["file"]))) as image:
        picture = image.convert("RGB")
        picture.thumbnail((_EDGE, _EDGE))
    place = [f"{name.rpartition('.')[2]} {_short(v)}" for name, v in record["place"].items()]
    if not record["patched"]:
        place.insert(0, "unpatched")
    measures = [f"{name} {value:.3f}" for name, value in sorted(record["measures"].items())]
    return Tile(picture, ", ".join(place), ", ".join(measures), reference=not record["patched"])


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
