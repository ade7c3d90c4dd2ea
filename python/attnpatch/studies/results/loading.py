# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Results of a sweep in a script or a notebook."""

from __future__ import annotations

import base64
import html
import io
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from PIL import Image

from attnpatch.engine import PatchStack
from attnpatch.studies.results.png import open_picture, read_metadata
from attnpatch.studies.results.records import Record, done, placed, read_order
from attnpatch.studies.results.rows import as_rows, cell_of_table
from attnpatch.studies.results.sheet import make_sheet
from attnpatch.studies.results.stacks import stack_from_json
from attnpatch.studies.results.store import Store
from attnpatch.studies.study import Study
from attnpatch.studies.toml import read_toml
from attnpatch.studies.workflow.study import WorkflowStudy

__all__ = ["StudyResults", "load_study"]

_THUMBNAIL, _SHOWN = 96, 60


class StudyResults(Sequence[Mapping[str, Any]]):
    """The cells of a sweep that are done, in the order of its axes: a row each.

    In a notebook it shows a table with thumbnails. ``pandas.DataFrame(results)`` takes it as it is.

    Attributes
    ----------
    study : Study or WorkflowStudy
    rows : list of dict
        ``id``, ``patched``, the axes' values, arguments, measures, ``seconds_per_step``, ``file``.
    """

    def __init__(
        self, study: Study | WorkflowStudy, records: Sequence[Record], store: Store
    ) -> None:
        self.study = study
        self.rows = as_rows(records, study.axis_names)
        self._records = list(records)
        self._store = store

    @property
    def location(self) -> str:
        """The folder or address that they are in."""
        return self._store.address

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> StudyResults: ...
    def __getitem__(self, index: int | slice) -> Mapping[str, Any] | StudyResults:
        if isinstance(index, slice):
            return self.some(range(len(self))[index])
        return self.rows[index]

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(self.rows)

    def where(self, **values: Any) -> StudyResults:
        """Return the rows with these values; a dot in an axis' name is written as ``__``."""
        columns = self.rows[0] if self.rows else {}
        names = {n if n in columns else n.replace("__", "."): v for n, v in values.items()}
        for name in names:
            if self.rows and name not in columns:
                raise KeyError(f"{name}: expected one of {', '.join(columns)}")
        wanted = {name: cell_of_table(value) for name, value in names.items()}
        return self.some(
            place
            for place, row in enumerate(self.rows)
            if all(row[name] == value for name, value in wanted.items())
        )

    def some(self, places: Iterable[int]) -> StudyResults:
        """Return the rows at some places, with the columns of all."""
        kept = list(places)
        found = StudyResults(self.study, [self._records[place] for place in kept], self._store)
        found.rows = [self.rows[place] for place in kept]
        return found

    def picture(self, index: int) -> Image.Image:
        """Return the picture of a row."""
        return open_picture(self._store, self.rows[index]["file"])

    def sheet(self) -> Image.Image:
        """Draw a contact sheet of the rows; of many a part of them.

        Raises
        ------
        ValueError
            Where there is no row.
        """
        if not self.rows:
            raise ValueError(f"{self.location}: expected cells that are done, got none")
        return make_sheet(self.study, self._records, self._store)

    def metadata(self, index: int) -> dict[str, Any]:
        """Return what the picture of a row says of itself: cell, stack, record, versions."""
        return read_metadata(self._store.read(self.rows[index]["file"]))

    def stack(self, index: int) -> PatchStack:
        """Return the patches of a row."""
        return stack_from_json(self.metadata(index).get("stack"), self._store)

    def __repr__(self) -> str:
        return f"<StudyResults of {self.study.name!r}: {len(self)} cells, {self.location}>"

    def _repr_html_(self) -> str:
        """Show a table with thumbnails; of many rows the first ones."""
        if not self.rows:
            return "<p>no cell is done</p>"
        names = [name for name in self.rows[0] if name != "file"]
        head = "".join(f"<th>{html.escape(name)}</th>" for name in ("", *names))
        body = []
        for place, row in enumerate(self.rows[:_SHOWN]):
            cells = "".join(f"<td>{html.escape(_shown(row[name]))}</td>" for name in names)
            body.append(f"<tr><td>{self._thumbnail(place)}</td>{cells}</tr>")
        more = len(self) - _SHOWN
        note = f"<p>and {more} more</p>" if more > 0 else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>{note}"

    def _thumbnail(self, index: int) -> str:
        picture = self.picture(index).convert("RGB")
        picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
        file = io.BytesIO()
        picture.save(file, "png")
        text = base64.b64encode(file.getvalue()).decode()
        return f'<img width="{_THUMBNAIL}" alt="" src="data:image/png;base64,{text}">'


def load_study(folder: str | os.PathLike[str]) -> StudyResults:
    """Read the results of a sweep, also of one that runs still or was interrupted.

    Parameters
    ----------
    folder : path or address
        What ``attnpatch sweep`` wrote.

    Raises
    ------
    FileNotFoundError
        Where there are none.
    ValueError
        Where ``study.toml`` or ``cells.json`` is damaged; resuming the sweep writes them again.
    """
    store = Store(folder)
    study = _read_study(store)
    order = read_order(store)
    records = done(store, (entry.id for entry in order))
    return StudyResults(study, placed(order, records), store)


def _read_study(store: Store) -> Study | WorkflowStudy:
    if not store.has("study.toml"):
        raise FileNotFoundError(f"{store.location}: expected the results of a sweep")
    path = store.path("study.toml")
    try:
        values = read_toml(store.read("study.toml").decode(), path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected TOML in UTF-8, got {error}") from None
    if "workflow" in values:
        return WorkflowStudy.read(values, store)
    if store.folder is not None:
        return Study.load(store.folder / "study.toml")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("study.toml", "study.safetensors"):
            if store.has(name):
                (Path(folder) / name).write_bytes(store.read(name))
        return Study.load(Path(folder) / "study.toml")


def _shown(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
