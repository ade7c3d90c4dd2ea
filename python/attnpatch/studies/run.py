# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Run a study: check, plan, run what is not done yet, and write what can be looked at."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attnpatch.hosts.recognition import diffusers_denoiser
from attnpatch.studies.build import read_adapter
from attnpatch.studies.cells import Cell
from attnpatch.studies.check import check_cells
from attnpatch.studies.completing import complete
from attnpatch.studies.engines import Engine, Here, Job, make_engine
from attnpatch.studies.files import found
from attnpatch.studies.fitting import unlike
from attnpatch.studies.inputs import check_model
from attnpatch.studies.measures import Measure, check_measures
from attnpatch.studies.models import Model
from attnpatch.studies.options import MODEL_FILES
from attnpatch.studies.plan import Plan, make_plan, with_unpatched
from attnpatch.studies.progress import Progress, Quiet, make_progress
from attnpatch.studies.results.loading import StudyResults, load_study
from attnpatch.studies.results.publish import publish
from attnpatch.studies.results.records import (
    Entry,
    Record,
    done,
    has_begun,
    require_free,
    undamaged,
    write_order,
)
from attnpatch.studies.results.store import Store
from attnpatch.studies.study import Study
from attnpatch.studies.table import Table
from attnpatch.studies.values import whole

__all__ = ["run_study"]

logger = logging.getLogger("attnpatch")


def run_study(
    study: Study,
    folder: str | os.PathLike[str],
    *,
    model: Any = None,
    engine: str | Engine = "here",
    resume: bool = False,
    rows: int | None = None,
    measures: Mapping[str, Measure] | None = None,
    progress: bool = True,
    **options: Any,
) -> StudyResults:
    """Make all pictures of a study that are not made yet.

    Parameters
    ----------
    study : Study
    folder : path or address
        Where results go: a folder, or an address that fsspec knows.
    model : optional
        A pipeline of diffusers that is loaded already, in place of ``study.model``; for the engine
        in this process alone. Its patches stay.
    engine : {"here", "processes", "ray"} or Engine
        Where it runs.
    resume : bool
        Go on with results that are there: cells that are done are not made again.
    rows : int, optional
        The most rows of a batch; by default as many as memory allows.
    measures : Mapping, optional
        By name a function of a picture and its cell, which gives a number.
    progress : bool
        Show bars.
    **options
        Of the engine: see ``make_engine``.

    Returns
    -------
    StudyResults

    Raises
    ------
    TypeError, ValueError
        For what is wrong in the study, before anything runs; where a measure fails, after its batch
        was written.
    FileExistsError
        Where results are there, and `resume` is not given; where other files of their names are.
    KeyboardInterrupt
        After what is done was put in order: the folder resumes.
    """
    if not isinstance(study, Study):
        raise TypeError(f"study: expected a Study, got {study!r}; Study.load reads a file of one")
    runs = _engine_of(engine, options, model)
    if rows is not None:
        whole("rows", rows, 1)
    given = measures or {}
    check_measures(given, study.axis_names)
    cells = all_cells(study, model)
    store = Store(folder)
    order = order_of(cells, len(study))
    _require(store, resume)
    finished = _finished(store, order)
    plan = make_plan(cells, finished)
    job = Job(model_of(study, model, cells), store.address, rows, dict(given))
    shown: Progress = Quiet()
    if progress and plan.cells:
        shown = make_progress(plan.cells, _steps(plan), len(finished))
    began = False
    try:
        engaged = runs if plan.cells else Here()  # which loads nothing where nothing is asked
        with engaged.open(job, shown.steps) as pool:
            if plan.cells:
                pool.check(unlike(cell for unit in (*plan.first, *plan.then) for cell in unit))
            _require(store, resume)  # others may have begun there meanwhile
            write_order(store, order)  # first, since it says that a sweep has begun here
            _write_study(study, store)
            began = True
            for units in plan:
                for records in pool.run(units):
                    finished.update((record["id"], record) for record in records)
                    shown.cells(len(records))
        complete(cells, finished, given, store)
    except Exception:
        finished = done(store, (entry.id for entry in order))  # the last batch as well
        raise
    finally:
        shown.close()
        if began:
            publish(study, order, finished, store)
    return load_study(store.location)


def _require(store: Store, resume: bool) -> None:
    """Make sure that results can be written, and that no others are written over."""
    store.require()
    if has_begun(store):
        if resume:
            return
        raise FileExistsError(
            f"{store.location}: expected no results, got those of a sweep; resume it, or give "
            "another folder"
        )
    require_free(store)


def _engine_of(engine: Any, options: Mapping[str, Any], model: Any) -> Engine:
    """Return the engine that is asked for; for a loaded model it is this process."""
    runs = make_engine(engine, **options) if isinstance(engine, str) else engine
    if not hasattr(runs, "open") or (options and runs is engine):
        raise TypeError(f"engine: expected its name, or an Engine without options, got {engine!r}")
    if model is not None and not isinstance(runs, Here):
        raise ValueError(f"model: expected none for the engine {engine!r}, which loads its own")
    return runs


def _finished(store: Store, order: Sequence[Entry]) -> dict[str, Record]:
    """Return the records of a study's cells that are done; others in the folder are named."""
    there = done(store)
    found = {entry.id: there[entry.id] for entry in order if entry.id in there}
    if len(there) > len(found):
        logger.warning(
            "%s: %d pictures are of cells that the study does not have; they stay in pictures/, "
            "and are not in the table",
            store.location,
            len(there) - len(found),
        )
    return undamaged(store, found)


def order_of(cells: Sequence[Cell], asked: int) -> list[Entry]:
    """Return a study's cells as its results list them; the first ones are those `asked` for."""
    return [
        Entry(cell.id, (cell.place, *cell.also), number < asked)
        for number, cell in enumerate(cells)
    ]


def all_cells(study: Study, model: Any = None) -> list[Cell]:
    """Return a study's cells, checked, and the unpatched ones that they are measured against.

    Parameters
    ----------
    study, model
        As for ``run_study``.
    """
    cells = study.cells()
    if model is None:
        check_model(study.model, study.folder)
        check_cells(cells)
    else:
        check_cells(cells, _loaded(study, model))
    return with_unpatched(cells) if study.unpatched else list(cells)


def model_of(study: Study, model: Any = None, cells: Iterable[Cell] = ()) -> Table | Model:
    """Return what a job says of the model: a loaded one, or a study's table.

    Parameters
    ----------
    study, model
        As for ``run_study``.
    cells
        The first adapter of these tells of which family a model of one file is.
    """
    if model is not None:
        return _loaded(study, model)
    table = Table(study.model, **_files_of(study))
    if table.get("family") is not None or not Path(table["source"]).is_file():
        return table
    named = (spec.get("adapter") for cell in cells for spec in cell.patches.values())
    first = next((adapter for adapter in named if adapter is not None), None)
    if first is None:
        return table
    return Table(table, family=read_adapter(first, study.folder).family)


def _loaded(study: Study, model: Any) -> Model:
    if diffusers_denoiser(model) is None:
        if not hasattr(model, "generate"):
            raise TypeError(f"model: expected a pipeline of diffusers, or a Model, got {model!r}")
        own: Model = model
        return own
    from attnpatch.studies.models.pipelines import PipelineModel

    return PipelineModel(model, _files_of(study).get("image_encoder"))


def _files_of(study: Study) -> dict[str, str]:
    """Return what the model is read from, by full paths where these are there."""
    given = {name: study.model[name] for name in MODEL_FILES if name in study.model}
    return {name: found(value, study.folder) for name, value in given.items()}


def _steps(plan: Plan) -> int | None:
    """Return how many steps there are to come; None: the model's default is not known yet."""
    counts = [cell.argument("steps") for unit in (*plan.first, *plan.then) for cell in unit]
    return None if None in counts else sum(counts)


def _write_study(study: Study, store: Store) -> None:
    """Write the study beside its results, and where its relative paths start."""
    with tempfile.TemporaryDirectory() as folder:
        study.save(Path(folder) / "study.toml", _seen_from(store, study.folder))
        for file in sorted(Path(folder).iterdir()):
            store.write(file.name, file.read_bytes())


def _seen_from(store: Store, folder: Path) -> str:
    """Return a folder's path as results see it, so that they may be moved together."""
    if store.folder is not None:
        try:
            return Path(os.path.relpath(folder.resolve(), store.folder.resolve())).as_posix()
        except ValueError:  # Windows: another drive
            pass
    return folder.as_posix()
