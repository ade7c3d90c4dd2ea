# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The contact sheet: pictures side by side, with the values that lead to them."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Mapping, Sequence

from PIL import Image

from attnpatch.demo.sheet import Section, Tile, contact_sheet
from attnpatch.studies.results.png import open_picture
from attnpatch.studies.results.records import Record, Swept
from attnpatch.studies.results.store import Store

__all__ = ["make_sheet", "section_of", "write_sheet"]

_MOST = 240
_COLUMNS = 12
_EDGE = 208  # of a picture on the sheet, in pixels
_NAME = 14  # letters of an axis' name that leave room for its value


def write_sheet(study: Swept, records: Sequence[Record], store: Store) -> None:
    """Write ``sheet.png``."""
    file = io.BytesIO()
    make_sheet(study, records, store).save(file, "png")
    store.write("sheet.png", file.getvalue())


def make_sheet(study: Swept, records: Sequence[Record], store: Store) -> Image.Image:
    """Draw cells, the last axis from left to right; of many cells a part of them."""
    section = section_of(study, records, store)
    count = sum(map(len, section.rows))
    part = "" if count == len(records) else f", {count} of {len(records)} pictures"
    return contact_sheet("Sweep", f"{study.source}{part}", (section,))


def section_of(study: Swept, records: Sequence[Record], store: Store) -> Section:
    """Return what the sheet shows: pictures and captions, row by row."""
    shown = _some(records)
    columns = _COLUMNS if len(shown) < len(records) else _columns(study)
    names = _short_names(study)
    tiles = [_tile(record, names, store) for record in shown]
    return Section(
        study.name,
        ", ".join(study.axis_names) or "one cell",
        tuple(tuple(tiles[place : place + columns]) for place in range(0, len(tiles), columns)),
    )


def _some(records: Sequence[Record]) -> list[Record]:
    """Return all records, or of many one out of every few, which one by chance.

    Every second one would leave out each second value of the last axis. The same are drawn again.
    """
    step = max(1, -(-len(records) // _MOST))
    draw = random.Random(0)
    blocks = (records[place : place + step] for place in range(0, len(records), step))
    return [draw.choice(block) for block in blocks]


def _short_names(study: Swept) -> dict[str, str]:
    """Return what axes are called in captions: by the option alone, where one patch has it."""
    options = [name.rpartition(".")[2] for name in study.axis_names]
    return {
        name: option if options.count(option) == 1 else _end(name)
        for name, option in zip(study.axis_names, options, strict=True)
    }


def _end(name: str) -> str:
    return name if len(name) <= _NAME else "…" + name[1 - _NAME :]


def _columns(study: Swept) -> int:
    """Return how many pictures are in a row: as many as the last axes have values together."""
    axes = study.axes[-1] if study.axes else None
    if axes is None or axes.join != "grid" or not axes.values:
        return _COLUMNS
    columns = 1
    for values in reversed(list(axes.values.values())):
        if columns > 1 and columns * len(values) > _COLUMNS:
            break
        columns *= len(values)
    return min(columns, _COLUMNS)


def _tile(record: Record, names: Mapping[str, str], store: Store) -> Tile:
    picture = open_picture(store, record["file"]).convert("RGB")
    picture.thumbnail((_EDGE, _EDGE))
    # What changes fastest comes first; each has a line, which is cut where it is too long.
    place = [f"{names[n]} {_short(v)}" for n, v in reversed(list(record["place"].items()))]
    if not record["patched"]:
        place.insert(0, "unpatched")
    caption, *rest = place or [record["id"]]
    rest += [f"{name} {value:.3f}" for name, value in sorted(record["measures"].items())]
    return Tile(picture, caption, "\n".join(rest), reference=not record["patched"])


def _short(value: object) -> str:
    """Return a value for a caption: of a file its name alone."""
    if value is None:
        return "none"
    if isinstance(value, str):
        return (value if " " in value else value.rpartition("/")[2]) or "“”"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_short, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)
