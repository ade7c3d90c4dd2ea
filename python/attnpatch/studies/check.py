# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Wrong names and types are errors before anything runs, with the nearest right name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from attnpatch.engine import Patch
from attnpatch.patches import Guidance, ImagePrompt
from attnpatch.studies.names import unknown_name
from attnpatch.studies.options import (
    FILES,
    MODEL,
    PIPELINE,
    changed,
    check_types,
    kind_of,
    options_of,
    patch_options,
)
from attnpatch.studies.table import Table
from attnpatch.studies.values import MOST_SEED, real, text, whole

if TYPE_CHECKING:
    from attnpatch.studies.axes import Axes
    from attnpatch.studies.cells import Cell

__all__ = ["check_cells", "check_names", "make_plain"]

_DTYPES = ("float32", "float16", "bfloat16")
# What stands for an image prompt's tensors while its options are checked.
_NO_TENSORS = ((torch.zeros(1, 1, 1), torch.zeros(1, 1, 1)),)
_ADAPTER = ("source", "subfolder", "weight_name", "kind", "which", "revision")
_SUFFIXES = (".bin", ".jpeg", ".jpg", ".png", ".pt", ".pth", ".safetensors", ".webp")
_SOURCES = ("adapter", "picture", "negative", "combine", "crop", "faces", "noise", "mask")


def check_names(model: Table, pipeline: Table, patches: Table, axes: Sequence[Axes]) -> None:
    """Raise ValueError for a name that a study, its patches or its axes do not have."""
    _known("model", model, MODEL)
    if not isinstance(model.get("source"), str):
        raise ValueError(f"model.source: expected a text, got {model.get('source')!r}")
    if model.get("dtype", "float32") not in _DTYPES:
        raise unknown_name("model.dtype", model["dtype"], _DTYPES)
    _known("pipeline", pipeline, PIPELINE)
    for name, spec in patches.items():
        if "." in name or name in PIPELINE:
            raise ValueError(
                f"patches: expected names without a dot that no argument has, got {name!r}"
            )
        _known(f"patches.{name}", spec, _names_of(name, spec))
    for name in (name for one in axes for name in one.names):
        _check_axis(name, patches)


def _names_of(name: str, spec: Table) -> tuple[str, ...]:
    made = "patch" in spec
    options = patch_options(kind_of(spec, f"patches.{name}"), made=made)
    return (*options, "patch" if made else "kind")


def _check_axis(name: str, patches: Table) -> None:
    patch, dot, option = name.partition(".")
    if not dot:
        if name not in PIPELINE:
            dotted = [f"{p}.{o}" for p, spec in patches.items() for o in _names_of(p, spec)]
            raise unknown_name("axes", name, (*PIPELINE, *dotted))
        return
    if patch not in patches:
        raise unknown_name("axes", name, [f"{p}.{option}" for p in patches] or PIPELINE)
    known = [o for o in _names_of(patch, patches[patch]) if o not in ("patch", "kind")]
    if option not in known:
        raise unknown_name(f"axes: {patch}", option, known)


def _known(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    for name in given:
        if name not in known:
            raise unknown_name(where, name, known)


def check_cells(cells: Iterable[Cell]) -> None:
    """Check what all cells ask for, without a model: types, ranges, and files that are there.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter.
    """
    seen: set[Any] = set()
    for cell in cells:
        if cell.pipeline not in seen:
            seen.add(cell.pipeline)
            _check_pipeline(cell.pipeline)
        for name, spec in cell.patches.items():
            if (name, spec) in seen:
                continue
            seen.add((name, spec))
            try:
                _check_files(spec, cell.folder)
                make_plain(spec)
            except (TypeError, ValueError) as error:
                raise type(error)(f"{name}.{error}") from None


def make_plain(spec: Table) -> Patch:
    """Make the patch of a table; an image prompt without its tensors, to check its options."""
    kind = kind_of(spec, "patch")
    options = options_of(kind, spec)
    made = spec.get("patch")
    check_types(kind, options)
    if issubclass(kind, ImagePrompt):
        if made is None:
            for name in ("adapter", "picture"):
                if name not in spec:
                    raise ValueError(f"{name}: expected one, got none")
        plain = {name: value for name, value in options.items() if name not in _SOURCES}
        return ImagePrompt.from_keys_values(_NO_TENSORS, **plain)
    if made is not None:
        return changed(made, options)
    patch = kind(**options)
    if isinstance(patch, Guidance) and patch.samples > 1:
        raise ValueError(f"scale: expected one for a cell, which is one picture, got {patch.scale}")
    return patch


def _check_files(spec: Table, folder: Path) -> None:
    for name in FILES:
        values = spec.get(name)
        for value in values if isinstance(values, tuple) else (values,):
            if name == "mask" and isinstance(values, tuple):
                _check_box(values)
                break
            if isinstance(value, Table) and name == "adapter":  # of a hub or a folder
                _known("adapter", value, _ADAPTER)
                value = value.get("source")
            if value is None:
                continue
            if not isinstance(value, str):
                raise TypeError(f"{name}: expected a file, got {value!r}")
            # What is no file may be a name that the model or a hub knows.
            if Path(value).suffix.lower() in _SUFFIXES and not (folder / value).is_file():
                raise ValueError(f"{name}: expected a file that is there, got {value!r}")


def _check_box(box: Sequence[Any]) -> None:
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in box)
    if (
        len(box) != 4
        or not numbers
        or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1)
    ):
        raise ValueError(
            f"mask: expected a file, or [left, top, right, bottom] as parts of 0 to 1, got {box!r}"
        )


def _check_pipeline(arguments: Mapping[str, Any]) -> None:
    for name, value in arguments.items():
        if name in ("prompt", "negative_prompt"):
            text(name, value)
        elif name == "guidance":
            real(name, value)
        elif name == "size":
            _check_size(value)
        elif name == "steps":
            whole(name, value, 1)
        else:
            whole(name, value, 0, MOST_SEED)


def _check_size(value: Any) -> None:
    sides = value if isinstance(value, tuple) else (value,)
    fits = len(sides) in (1, 2) and all(type(side) is int and side >= 1 for side in sides)
    if not fits:
        raise ValueError(f"size: expected a whole number, or [height, width], got {value!r}")
