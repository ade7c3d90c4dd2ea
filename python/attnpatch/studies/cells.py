# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A cell: the full description of one picture, with a hash that is the same on every machine."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from attnpatch.engine import Patch
from attnpatch.studies.files import digest_of_model
from attnpatch.studies.options import FILES, MODEL_FILES, PIPELINE, is_none
from attnpatch.studies.table import EMPTY, Table
from attnpatch.studies.values import boolean

__all__ = ["Cell", "cell_of", "digest_of_patch"]

# Where and in what a model runs is no part of what a cell is.
_RUNS = ("device",)


@dataclass(frozen=True)
class Cell:
    """One picture's full description.

    Parameters
    ----------
    model, pipeline, patches
        As of a study, with this cell's values in them; patches that are off are left out, and so
        are arguments of the pipeline that are at their defaults.
    place
        The values of the axes that lead here; no part of what the cell is.
    folder
        Where relative paths start.
    also
        Other values of the axes that lead to the same cell: those of a patch that is off.
    """

    model: Table
    pipeline: Table
    patches: Table
    place: Table = field(default=EMPTY, compare=False)
    folder: Path = field(default=Path(), compare=False, repr=False)
    also: tuple[Table, ...] = field(default=(), compare=False, repr=False)

    @functools.cached_property
    def id(self) -> str:
        """The hash of the description, 16 hexadecimal digits; files count by what they hold."""
        text = json.dumps(self.description, sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def description(self) -> dict[str, Any]:
        """All that decides on the picture, as JSON has it: files and tensors by their SHA-256."""
        return {
            "model": {
                name: self._model(value) if name in MODEL_FILES else _plain(value)
                for name, value in self.model.without(*_RUNS).items()
            },
            "pipeline": _plain(self.pipeline),
            "patches": {name: self._described(spec) for name, spec in self.patches.items()},
        }

    def _described(self, spec: Table) -> dict[str, Any]:
        found = {}
        for name, value in spec.items():
            if isinstance(value, Patch):
                found[name] = {"kind": value.type_name, "sha256": digest_of_patch(value)}
            else:
                described = self._model if name in ("adapter", "faces") else self._file
                found[name] = described(value) if name in FILES else _plain(value)
        return found

    def _file(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return [self._file(item) for item in value]
        path = self.folder / value if isinstance(value, str) else None
        return _plain(value) if path is None or not path.is_file() else _digested(path)

    def _model(self, value: Any) -> Any:
        """Describe a file or a folder of weights, or a table with the `source` of them."""
        if isinstance(value, Table):
            parts = (value.get(name) for name in ("source", "subfolder", "weight_name"))
            path = self.folder.joinpath(*(part for part in parts if isinstance(part, str)))
            found = _digested(path)
            return _plain(value) if found is None else {**_plain(value), "source": found}
        found = _digested(self.folder / value) if isinstance(value, str) else None
        return _plain(value) if found is None else found

    def argument(self, name: str) -> Any:
        """Return an argument of the pipeline's call; None: the model's own default."""
        return self.pipeline.get(name, PIPELINE[name])

    @property
    def without_patches(self) -> Cell:
        """The same picture, unpatched."""
        place = Table({name: v for name, v in self.place.items() if "." not in name})
        return Cell(self.model, self.pipeline, Table(), place, self.folder)


def cell_of(
    model: Table, pipeline: Table, patches: Table, place: Mapping[str, Any], folder: Path
) -> Cell:
    """Return the cell at some values of a study's axes."""
    own = dict(pipeline)
    specs = {name: dict(spec) for name, spec in patches.items()}
    for name, value in place.items():
        patch, dot, option = name.partition(".")
        if dot:
            specs[patch][option] = value
        else:
            own[name] = value
    kept = {k: v for k, v in own.items() if v != PIPELINE[k] or type(v) is not type(PIPELINE[k])}
    found = {
        name: {k: v for k, v in spec.items() if k != "on" and not (v is None and is_none(spec, k))}
        for name, spec in specs.items()
        if boolean(f"{name}.on", spec.get("on", True))
    }
    return Cell(model, Table(kept), Table(found), Table(place), folder)


def _digested(path: Path) -> dict[str, str] | None:
    digest = digest_of_model(path)
    return None if digest is None else {"sha256": digest}


def _plain(value: Any) -> Any:
    """Return a value as JSON has it, in one form: 1 and 1.0 are the same."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@functools.lru_cache(maxsize=256)
def digest_of_patch(patch: Patch) -> str:
    """Return the SHA-256 of all that a patch is, tensors included."""
    values, tensors = patch.state()
    sha = hashlib.sha256(json.dumps([patch.type_name, values], sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
