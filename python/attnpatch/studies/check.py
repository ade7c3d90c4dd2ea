# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Wrong names and types are errors before anything runs, with the nearest right name."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from attnpatch.engine import Patch
from attnpatch.patches import Guidance, ImagePrompt
from attnpatch.studies.inputs import Inputs
from attnpatch.studies.models import Takes, takes_of
from attnpatch.studies.names import under, unknown_name
from attnpatch.studies.options import (
    MODEL,
    PIPELINE,
    SOURCES,
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
_FAMILIES = ("sd1", "sd2", "sdxl")
# What stands for an image prompt's tensors while its options are checked.
_NO_TENSORS = ((torch.zeros(1, 1, 1), torch.zeros(1, 1, 1)),)


def check_names(model: Table, pipeline: Table, patches: Table, axes: Sequence[Axes]) -> None:
    """Raise ValueError for a name that a study, its patches or its axes do not have."""
    _known("model", model, MODEL)
    _check_model(model)
    _known("pipeline", pipeline, PIPELINE)
    for name, spec in patches.items():
        if "." in name or name in PIPELINE:
            raise ValueError(
                f"patches: expected names without a dot that no argument has, got {name!r}"
            )
        _known(f"patches.{name}", spec, _names_of(name, spec))
    for name in (name for one in axes for name in one.names):
        _check_axis(name, patches)


def _check_model(model: Table) -> None:
    if not isinstance(model.get("source"), str):
        raise ValueError(f"model.source: expected a text, got {model.get('source')!r}")
    for name, known in (("dtype", _DTYPES), ("family", _FAMILIES)):
        if model.get(name) is not None and model[name] not in known:
            raise unknown_name(f"model.{name}", model[name], known)
    if model.get("image_encoder") is not None:
        text("model.image_encoder", model["image_encoder"])
    if model.get("device") is not None:
        name = text("model.device", model["device"])
        try:
            torch.device(name)
        except RuntimeError:
            raise ValueError(
                f"model.device: expected a device such as cpu, cuda or cuda:1, got {name!r}"
            ) from None


def _names_of(name: str, spec: Table) -> tuple[str, ...]:
    made = "patch" in spec
    options = patch_options(kind_of(spec, f"patches.{name}"), made=made)
    return (*options, "patch" if made else "kind")


def _check_axis(name: str, patches: Table) -> None:
    patch, dot, option = name.partition(".")
    if not dot:
        if name not in PIPELINE:
            dotted = [f"{p}.{o}" for p, spec in patches.items() for o in _varied(p, spec)]
            raise unknown_name("axes", name, (*PIPELINE, *dotted))
        return
    if patch not in patches:
        raise unknown_name("axes", name, [f"{p}.{option}" for p in patches] or PIPELINE)
    known = _varied(patch, patches[patch])
    if option == "kind":
        raise ValueError(
            f"axes: expected options of {patch}, got its kind; write a patch for each kind, and "
            f"switch them by on"
        )
    if option not in known:
        raise unknown_name(f"axes: {patch}", option, known)


def _varied(name: str, spec: Table) -> list[str]:
    """Return the options of a patch that an axis may name."""
    return [option for option in _names_of(name, spec) if option not in ("patch", "kind")]


def _known(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    for name in given:
        if name not in known:
            raise unknown_name(where, name, known)


def check_cells(cells: Sequence[Cell], takes: Takes | None = None) -> None:
    """Check what all cells ask for, without a model: types, ranges, and all files that they name.

    Parameters
    ----------
    cells
        Of one study.
    takes
        What the model takes; None: what is known by its name.

    Raises
    ------
    OSError, TypeError, ValueError
        Naming the parameter.
    """
    if not cells:
        return
    takes = takes_of(cells[0].model["source"]) if takes is None else takes
    inputs = Inputs(takes, cells[0].folder)
    seen: set[Hashable] = set()
    for cell in cells:
        if cell.pipeline not in seen:
            seen.add(cell.pipeline)
            _check_pipeline(cell.pipeline)
            takes.check(cell)
        for name, spec in cell.patches.items():
            if (name, spec) in seen:
                continue
            seen.add((name, spec))
            try:
                inputs.check(spec)
                make_plain(spec)
            except (OSError, TypeError, ValueError) as error:
                raise under(name, error, _names_of(name, spec)) from error


def make_plain(spec: Table) -> Patch:
    """Make the patch of a table; an image prompt without its tensors, to check its options."""
    kind = kind_of(spec, "patch")
    options = options_of(kind, spec)
    made = spec.get("patch")
    check_types(kind, options)
    if issubclass(kind, ImagePrompt):
        plain = {name: value for name, value in options.items() if name not in (*SOURCES, "mask")}
        return ImagePrompt.from_keys_values(_NO_TENSORS, **plain)
    if made is not None:
        return changed(made, options)
    patch = kind(**options)
    if isinstance(patch, Guidance) and patch.samples > 1:
        raise ValueError(f"scale: expected one for a cell, which is one picture, got {patch.scale}")
    return patch


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
