# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The contact sheet: pictures side by side, with the values that lead to them."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence

from PIL import Image

from attnpatch.demo.sheet import Section, Tile, contact_sheet
from attnpatch.studies.results.png import open_picture
from attnpatch.studies.results.records import Record, Swept
from attnpatch.studies.results.store import Store

__all__ = ["make_sheet", "write_sheet"]

_MOST = 240
_COLUMNS = 12
_EDGE = 208  # of a picture on the sheet, in pixels


def write_sheet(study: Swept, records: Sequence[Record], store: Store) -> None:
    """Write ``sheet.png``."""
    file = io.BytesIO()
    make_sheet(study, records, store).save(file, "png")
    store.write("sheet.png", file.getvalue())


def make_sheet(study: Swept, records: Sequence[Record], store: Store) -> Image.Image:
    """Draw cells, the last axis from left to right; of many cells a part of them."""
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
    return contact_sheet("Sweep", f"{study.source}{part}", (section,))


def _columns(study: Swept, step: int) -> int:
    """Return how many pictures are in a row: as many as the last axes have values together."""
    axes = study.axes[-1] if study.axes else None
    if step > 1 or axes is None or axes.join != "grid" or not axes.values:
        return _COLUMNS
    columns = 1
    for values in reversed(list(axes.values.values())):
        if columns > 1 and columns * len(values) > _COLUMNS:
            break
        columns *= len(values)
    return min(columns, _COLUMNS)


def _tile(record: Record, store: Store) -> Tile:
    picture = open_picture(store, record["file"]).convert("RGB")
    picture.thumbnail((_EDGE, _EDGE))
    # What changes fastest comes first: captions are cut where they are too long.
    place = [
        f"{n.rpartition('.')[2]} {_short(v)}" for n, v in reversed(list(record["place"].items()))
    ]
    if not record["patched"]:
        place.insert(0, "unpatched")
    caption, *rest = place or [record["id"]]
    rest += [f"{name} {value:.3f}" for name, value in sorted(record["measures"].items())]
    return Tile(picture, caption, ", ".join(rest), reference=not record["patched"])


def _short(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
