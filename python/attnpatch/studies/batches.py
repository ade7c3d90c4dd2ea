# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Which cells run as rows of one batch, and the patches that give each row its own."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Sequence

from attnpatch.engine import Patch, Weight
from attnpatch.patches import Guidance, ImagePrompt, join_rows
from attnpatch.studies.cells import Cell
from attnpatch.studies.options import changed, kind_of, options_of

__all__ = ["group_cells", "join_patches", "units"]

# Arguments of the pipeline's call that each row of a batch may have of its own.
_BY_ROW = ("prompt", "negative_prompt", "seed")


def group_cells(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Return cells in groups that may share a batch, equal beginnings next to each other.

    Cells may share one that differ in what their image prompts show, in their weights, layers,
    curves, masks and windows, in the scale of guidance, in prompts and in seeds.
    """
    groups: dict[Hashable, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(_structure(cell), []).append(cell)
    return [sorted(group, key=_start) for group in groups.values()]


def units(groups: Iterable[Sequence[Cell]], size: int) -> list[tuple[Cell, ...]]:
    """Cut groups into pieces of about equal sizes, none larger than `size`: what a worker gets."""
    found = []
    for group in groups:
        count = -(-len(group) // size)
        bounds = [len(group) * place // count for place in range(count + 1)]
        found += [tuple(group[a:b]) for a, b in itertools.pairwise(bounds)]
    return found


def _start(cell: Cell) -> tuple[object, ...]:
    """Where cells with the same beginning stand together, the unpatched one in front."""
    return *(repr(cell.argument(name)) for name in _BY_ROW), bool(cell.patches)


def _structure(cell: Cell) -> Hashable:
    """Return what cells of a batch have in common."""
    arguments = cell.pipeline.without(*_BY_ROW)
    with_negative = cell.argument("negative_prompt") is not None
    patches = []
    for spec in cell.patches.values():
        kind = kind_of(spec, "patch")
        if issubclass(kind, ImagePrompt) and spec.get("compat") != "fooocus":
            continue
        if issubclass(kind, Guidance):
            options = options_of(kind, spec)
            scale = options.pop("scale", None)
            curve = scale.curve if isinstance(scale, Weight) else ()
            patches.append((kind, spec.get("patch"), tuple(sorted(options.items())), curve))
        else:
            patches.append(spec)
    return cell.model, cell.folder, arguments, with_negative, tuple(patches)


def join_patches(stacks: Sequence[Sequence[Patch]]) -> list[Patch]:
    """Return one stack that gives each row of a batch what its own stack would give it.

    Parameters
    ----------
    stacks
        For each row its patches; of one group of ``group_cells``.

    Raises
    ------
    ValueError
        Where they have other patches beside their image prompts.
    """
    if len(stacks) == 1:
        return list(stacks[0])
    prompts = [[p for p in stack if isinstance(p, ImagePrompt)] for stack in stacks]
    others = [[p for p in stack if not isinstance(p, ImagePrompt)] for stack in stacks]
    if len({len(other) for other in others}) > 1:
        raise ValueError("patches: expected rows with the same patches beside image prompts")
    joined = join_rows(prompts) if any(prompts) else []
    return [*joined, *(_joined_other(column) for column in zip(*others, strict=True))]


def _joined_other(column: Sequence[Patch]) -> Patch:
    first = column[0]
    if all(patch == first for patch in column):
        return first
    if not isinstance(first, Guidance):
        raise ValueError(f"patches: expected equal ones in all rows, got {first!r} and others")
    weights = [_weight(patch) for patch in column]
    scale = Weight(1.0, curve=weights[0].curve, samples=tuple(w.scale for w in weights))
    joined = changed(first, {"scale": scale})
    for patch, weight in zip(column, weights, strict=True):
        if changed(patch, {"scale": scale}) != joined or weight.curve != scale.curve:
            raise ValueError(f"patches: expected guidance that differs in its scale, got {column}")
    return joined


def _weight(patch: Patch) -> Weight:
    assert isinstance(patch, Guidance)
    return patch.scale if isinstance(patch.scale, Weight) else Weight(patch.scale)
