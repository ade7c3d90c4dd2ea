# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A study: a model, a pipeline's arguments, patches, and the axes that it goes through."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from attnpatch.engine import Patch, PatchStack
from attnpatch.studies.axes import Axes
from attnpatch.studies.cells import Cell, cell_of
from attnpatch.studies.check import check_names
from attnpatch.studies.names import under, unknown_name
from attnpatch.studies.table import EMPTY, Table, empty_for_none, frozen, none_for_empty, plain
from attnpatch.studies.toml import read_toml, to_toml
from attnpatch.studies.values import boolean, text

__all__ = ["Study"]

_TOP = ("name", "folder", "model", "pipeline", "patches", "axes", "unpatched")


@dataclass(frozen=True)
class Study:
    """What is varied, and what stays the same, as one immutable value.

    Parameters
    ----------
    model : str or Mapping
        A model: a file, a folder or an ID of diffusers, or ``"attnpatch/fashion"``, the small model
        in the package. As a table: ``source``, and ``image_encoder``, ``device``, ``dtype``, and
        for a single file its ``family``, "sd1", "sd2" or "sdxl", where no adapter tells it.
    patches : Mapping
        By a name of yours a table, or a patch. A table has ``kind``, the class's name, and its
        options; an image prompt's ``adapter``, ``picture`` and ``mask`` are files; for all,
        ``window`` is ``[start, end]``, ``on`` false leaves the patch out, ``preset`` and ``curve``
        go into the weight. ``{"saved": FILE, "place": 0}`` is a patch of a stack's file.
    axes : Axes, Mapping, or a sequence of these
        What is varied; a Mapping is a grid, several are joined as a grid. Names are ``"seed"`` and
        other arguments of the pipeline, and ``"PATCH.OPTION"``.
    pipeline : Mapping
        Arguments of all cells: ``prompt``, ``negative_prompt``, ``seed``, ``guidance``, ``steps``,
        ``size`` (a number, or ``[height, width]``).
    name : str
        For people.
    unpatched : bool
        Whether each picture is made once more without patches, to measure against.
    folder : path
        Where relative paths start; no part of the value.

    Raises
    ------
    TypeError, ValueError
        For wrong names and types, with the nearest right name, before anything runs.

    Examples
    --------
    >>> study = Study(
    ...     "attnpatch/fashion",
    ...     {"style": {"kind": "ImagePrompt", "adapter": "ip-adapter.bin", "picture": "shoe.png"}},
    ...     {"style.weight": [0.25, 0.5], "seed": [0, 1]},
    ... )
    >>> len(study)
    4
    """

    model: Table
    patches: Table = EMPTY
    axes: tuple[Axes, ...] = ()
    pipeline: Table = EMPTY
    name: str = "study"
    unpatched: bool = True
    folder: Path = field(default=Path(), compare=False, repr=False)

    def __post_init__(self) -> None:
        model: Any = self.model
        self._fix("model", _table("model", {"source": model} if isinstance(model, str) else model))
        self._fix("pipeline", _table("pipeline", self.pipeline))
        self._fix("axes", _read_axes(self.axes))
        self._fix("folder", Path(self.folder).absolute())
        if not isinstance(self.patches, Mapping):
            raise TypeError(f"patches: expected a table by name, got {type(self.patches).__name__}")
        patches = {}
        for name, spec in self.patches.items():
            table = {"patch": spec} if isinstance(spec, Patch) else spec
            patches[name] = _with_saved(name, _table(f"patches.{name}", table), self.folder)
        self._fix("patches", Table(patches))
        frozen(text("name", self.name), "name")
        boolean("unpatched", self.unpatched)
        check_names(self.model, self.pipeline, self.patches, self.axes)

    def _fix(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def __len__(self) -> int:
        """How many cells there are; equal ones count once."""
        return len(self.cells())

    def __iter__(self) -> Iterator[Cell]:
        return iter(self.cells())

    def cells(self) -> tuple[Cell, ...]:
        """Return all cells, each once, in the order of the axes: the last one changes fastest."""
        rows = [Table()]
        for axes in self.axes:
            rows = [Table({**row, **more}) for row in rows for more in axes]
        made = (cell_of(self.model, self.pipeline, self.patches, row, self.folder) for row in rows)
        found: dict[str, list[Cell]] = {}
        for cell in made:
            found.setdefault(cell.id, []).append(cell)
        return tuple(
            replace(cell, also=tuple(one.place for one in others)) if others else cell
            for cell, *others in found.values()
        )

    @property
    def source(self) -> str:
        """What makes the pictures."""
        return str(self.model["source"])

    @property
    def axis_names(self) -> tuple[str, ...]:
        """The parameters that are varied, in order."""
        return tuple(dict.fromkeys(name for axes in self.axes for name in axes.names))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Study:
        """Read a TOML file; relative paths in it start at its folder, or at what it calls `folder`.

        The file of a patch that is ``saved`` is always seen from the TOML file's own folder.

        Raises
        ------
        ValueError
            For what is no study, naming the file.
        """
        path = Path(path)
        try:
            toml = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: expected TOML in UTF-8, got {error}") from None
        return cls.from_toml(toml, path.parent, str(path))

    @classmethod
    def from_toml(
        cls, toml: str, folder: str | os.PathLike[str] = ".", what: str = "study"
    ) -> Study:
        """Read what ``to_toml`` gave."""
        values = read_toml(toml, what)
        for name in values:
            if name not in _TOP:
                raise unknown_name(what, name, _TOP)
        if "model" not in values:
            raise ValueError(f"{what}: expected a model")
        given = values.pop("axes", [])
        given = [given] if isinstance(given, Mapping) else given
        if not isinstance(given, list):
            raise TypeError(f"axes: expected tables, got {given!r}")
        axes = tuple(Axes.from_plain(one) for one in given)
        own = Path(folder)
        if "folder" in values:
            folder = own / text("folder", values.pop("folder"))
            values["patches"] = _with_full_paths(own, values.get("patches", {}))
        return cls(**values, axes=axes, folder=Path(folder))

    def to_toml(self) -> str:
        """Write the study as TOML.

        Raises
        ------
        ValueError
            Where a patch is a value: ``save`` writes it to a file beside.
        """
        for name, spec in self.patches.items():
            if "patch" in spec:
                raise ValueError(
                    f"patches.{name}: expected a table, got a {type(spec['patch']).__name__}, "
                    "which TOML can not hold; save(path) writes it to a file beside"
                )
        return self._toml(self.patches)

    def _toml(self, patches: Mapping[str, Any], folder: str | None = None) -> str:
        values: dict[str, Any] = {"name": self.name, "unpatched": self.unpatched}
        if folder is not None:
            values["folder"] = folder
        tables = {"model": self.model, "pipeline": self.pipeline, "patches": patches}
        values |= empty_for_none(plain(tables))
        values["axes"] = [axes.to_plain() for axes in self.axes]
        return to_toml(values)

    def save(self, path: str | os.PathLike[str], folder: str | None = None) -> None:
        """Write the study to a TOML file, and patches that are values to one file beside it.

        Parameters
        ----------
        path
            Of the TOML file.
        folder : str, optional
            Where relative paths start, seen from the file's folder; by default at that.
        """
        path = Path(path)
        values = {name: spec for name, spec in self.patches.items() if "patch" in spec}
        patches: dict[str, Any] = dict(self.patches)
        if values:
            beside = path.with_suffix(".safetensors")
            PatchStack([spec["patch"] for spec in values.values()]).save(beside)
            for place, (name, spec) in enumerate(values.items()):
                patches[name] = {"saved": beside.name, "place": place, **spec.without("patch")}
        path.write_text(self._toml(patches, folder), encoding="utf-8")


def _table(where: str, value: Any) -> Table:
    if not isinstance(value, Mapping):
        raise TypeError(f"{where}: expected a table, got {type(value).__name__}")
    return Table({name: none_for_empty(item) for name, item in value.items()})


def _read_axes(axes: Any) -> tuple[Axes, ...]:
    several: Sequence[Any] = [axes] if isinstance(axes, Axes | Mapping) else axes
    if isinstance(several, str) or not isinstance(several, Sequence):
        raise TypeError(f"axes: expected Axes or a table of lists, or several, got {axes!r}")
    found = []
    for one in several:
        if not isinstance(one, Axes | Mapping):
            raise TypeError(f"axes: expected Axes or a table of lists, got {one!r}")
        found.append(one if isinstance(one, Axes) else Axes.grid(one))
    names = [name for one in found for name in one.names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"axes: expected each parameter once, got {', '.join(twice)} again")
    return tuple(found)


def _with_full_paths(own: Path, patches: Any) -> Any:
    """Return patches whose saved files are named by their full paths; what is wrong as it is."""
    if not isinstance(patches, Mapping):
        return patches
    return {
        name: {**spec, "saved": str(own.absolute() / spec["saved"])}
        if isinstance(spec, Mapping) and isinstance(spec.get("saved"), str)
        else spec
        for name, spec in patches.items()
    }


def _with_saved(name: str, spec: Table, folder: Path) -> Table:
    """Read a patch of a stack's file, once."""
    if "saved" not in spec:
        return spec
    where = f"patches.{name}.saved"
    try:
        stack = PatchStack.load(folder / text(where, spec["saved"]))
    except (OSError, ValueError) as error:
        raise under(where, error) from error
    place = spec.get("place", 0)
    if not isinstance(place, int) or not 0 <= place < len(stack):
        raise ValueError(
            f"patches.{name}.place: expected 0 to {len(stack) - 1}, the patches of "
            f"{spec['saved']}, got {place!r}"
        )
    return Table(spec.without("saved", "place"), patch=stack[place])
