# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What a sweep would take: cells, batches, memory, and time from a first cell."""

from __future__ import annotations

import os
from typing import Any

from attnpatch.engine import SamplingPoint
from attnpatch.studies.cells import Cell
from attnpatch.studies.engines.job import Job, Worker
from attnpatch.studies.fitting import unlike
from attnpatch.studies.memory import bytes_text
from attnpatch.studies.plan import Plan, make_plan
from attnpatch.studies.results.records import done, undamaged
from attnpatch.studies.results.store import Store
from attnpatch.studies.run import all_cells, model_of
from attnpatch.studies.runner import Runner
from attnpatch.studies.shared_steps import SharedSteps
from attnpatch.studies.study import Study

__all__ = ["dry_run"]


def dry_run(
    study: Study, folder: str | os.PathLike[str], *, model: Any = None, rows: int | None = None
) -> str:
    """Make one cell without writing it, and say what the sweep would take.

    Parameters
    ----------
    study, folder, model, rows
        As for ``run_study``.

    Returns
    -------
    str
        A few lines.

    Raises
    ------
    TypeError, ValueError
        For what is wrong in the study.
    """
    cells = all_cells(study, model)
    store = Store(folder)
    finished = undamaged(store, done(store, (cell.id for cell in cells)))
    plan = make_plan(cells, finished)
    asked = len(study)
    lines = [f"cells: {asked}, and {len(cells) - asked} without patches to measure against"]
    if finished:
        lines.append(f"done: {len(finished)}")
    left = [cell for unit in (*plan.first, *plan.then) for cell in unit]
    if not left:
        return "\n".join([*lines, "nothing is left to do"])
    cell = next((cell for cell in left if cell.patches), left[0])
    runner = Worker(Job(model_of(study, model, cells), store.location, rows)).runner
    runner.check(unlike(left))
    runner.make([cell])  # what is done once: kernels are chosen, pictures encoded
    with runner.limit.measured(1):
        made = runner.make([cell])
    most = runner.limit.most
    batches = sum(-(-len(unit) // most) for unit in (*plan.first, *plan.then))
    per_row = runner.limit.bytes_per_row
    memory = "not measured" if not per_row else f"about {bytes_text(per_row)} a row"
    rows_in_all, computed = _shared(plan, runner, most, made.shared.calls)
    alone = made.seconds * len(left)
    lines += [
        f"batches: {batches}, of at most {most} rows",
        f"memory: {memory} beside the model",
        f"steps: {rows_in_all}, of which {rows_in_all - computed} are common to cells of a batch",
        f"first cell: {made.seconds:.3g} s, {made.seconds / runner.model.steps(cell):.3g} s a step",
        f"time: {_time(alone * computed / rows_in_all)} on one device at the speed of that cell; "
        "rows of a batch are faster where the device has room",
    ]
    return "\n".join(lines)


def _shared(
    plan: Plan, runner: Runner, most: int, points: list[tuple[SamplingPoint, tuple[int, int]]]
) -> tuple[int, int]:
    """Return how many rows all calls have, and how many of those differ, by the first cell's calls.

    Cells with other numbers of steps are counted as if they had its.
    """
    rows = computed = 0
    for unit in (*plan.first, *plan.then):
        for place in range(0, len(unit), most):
            shared = _following(runner, unit[place : place + most])
            for point, latent in points:
                shared(point, latent)
            rows, computed = rows + shared.rows, computed + shared.computed
    return rows, computed


def _following(runner: Runner, cells: tuple[Cell, ...]) -> SharedSteps:
    return runner.shared_steps(cells, [runner.maker.patches(cell) for cell in cells])


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
