# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The nodes that queue the cells of a sweep, and that read what they gave."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attnpatch
from attnpatch.engine import PatchStack
from attnpatch.nodes import comfy
from attnpatch.nodes.own_server import OwnServer, Refused
from attnpatch.nodes.spec import Input, NodeSpec, Output, Result
from attnpatch.studies.files import digest_of_file
from attnpatch.studies.results.publish import publish
from attnpatch.studies.results.records import (
    Entry,
    done,
    has_begun,
    is_done,
    picture_name,
    read_order,
    require_free,
    undamaged,
    write_order,
)
from attnpatch.studies.results.store import Store
from attnpatch.studies.workflow.check import is_choice
from attnpatch.studies.workflow.graph import leading_to, reached_from
from attnpatch.studies.workflow.results import saving_prompt, write_cell
from attnpatch.studies.workflow.study import WorkflowCell, WorkflowStudy, describe, id_of

__all__ = ["NODES"]

_ID = "AttentionPatchesSweep"
_TOLD = "attnpatch_sweep"  # what a queued prompt tells this node: its part in a sweep
_EXAMPLE = """\
name = "weights"

[[axes]]
"KSampler.cfg" = [4.0, 6.0, 8.0]
"KSampler.seed" = [1, 2]
"""
_FOLDERS = ("input", "output")
_began: dict[str, float] = {}


class _Run:
    """One run of the node: what the host and the workflow say of it.

    Parameters
    ----------
    values
        The node's inputs, and what it is told beside them.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.node = str(values["unique_id"])
        given = values["prompt"] or {}
        if self.node not in given:
            raise ValueError(
                "sweep: expected this node in the workflow itself, not in one it makes"
            )
        # What the host notes in nodes while it runs them is no part of a workflow.
        kept = ("class_type", "inputs", "_meta")
        self.prompt = {
            node: {name: one[name] for name in kept if name in one} for node, one in given.items()
        }
        self.told = (values["extra_pnginfo"] or {}).get(_TOLD)
        self.folder = values["folder"]
        path = comfy.within("output", self.folder, "folder")
        self.subfolder = Path(os.path.relpath(path, comfy.folder("output"))).as_posix()
        self.store = Store(path)

    @property
    def picture(self) -> tuple[str, int]:
        """The node and its output that lead to the pictures."""
        link = self.prompt[self.node]["inputs"].get("images")
        if not isinstance(link, list):
            raise ValueError("images: expected a link to what makes the pictures, got none")
        return str(link[0]), int(link[1])

    def description(self) -> dict[str, Any]:
        """Return all that decides on the picture of this very prompt."""
        return describe(self.prompt, self.picture, _digest)

    def study(self, text: str) -> WorkflowStudy:
        """Read the study, over the nodes that lead to the pictures."""
        if "\n" not in text and text.strip().endswith(".toml"):
            path = comfy.within("input", text, "study")
            if not path.is_file():
                raise ValueError(f"study: expected a file that is there, got {text.strip()!r}")
            text = path.read_text(encoding="utf-8")
        leading = leading_to(self.picture[0], self.prompt)
        others = [node for node in leading if self.prompt[node]["class_type"] == _ID]
        if others:
            raise ValueError(f"images: expected nodes without a sweep, got one in {others[0]}")
        return WorkflowStudy.from_toml(text, self.prompt, self.picture)


def _digest(class_type: str, name: str, text: str) -> str | None:
    """Return the SHA-256 of a file of the host's folders, where an input is a choice of files."""
    paths, nodes = comfy.module("folder_paths"), comfy.module("nodes")
    if paths is None or nodes is None or "\0" in text:
        return None
    kind = getattr(nodes, "NODE_CLASS_MAPPINGS", {}).get(class_type)
    if kind is None or not is_choice(kind.INPUT_TYPES(), name):
        return None
    if not paths.exists_annotated_filepath(text):
        return None
    path = Path(os.path.abspath(paths.get_annotated_filepath(text)))
    inside = any(path.is_relative_to(os.path.abspath(comfy.folder(one))) for one in _FOLDERS)
    return digest_of_file(path) if inside and path.is_file() else None


def _needs(*, images: Any = None, **values: Any) -> list[str]:
    """Ask for the picture where this prompt is a cell's that is not done."""
    run = _Run(values)
    if run.told is None or "place" not in run.told:
        return []
    cell = id_of(run.description())
    if is_done(run.store, cell):
        return []
    wanted = ["images"] if images is None else []
    if wanted:
        _began[cell] = time.perf_counter()
    linked = "model" in run.prompt[run.node]["inputs"] and values.get("model") is None
    return [*wanted, "model"] if linked else wanted


def _sweep(*, study: str, at_most: int, images: Any, model: Any = None, **values: Any) -> Result:
    run = _Run(values)
    if run.told is not None and "place" in run.told:
        return _record(run, run.told["place"], images, model)
    if run.told is not None:
        return _show(run)
    return _queue(run, run.study(study), at_most)


def _queue(run: _Run, study: WorkflowStudy, at_most: int) -> Result:
    """Queue the cells that are not done and do not wait already, and then what shows them."""
    if len(study) > at_most:
        raise ValueError(
            f"study: expected at most {at_most} cells, got {len(study)}; raise at_most to queue "
            "them all"
        )
    server = OwnServer()
    study.check(server.definitions(one["class_type"] for one in study.prompt.values()))
    cells = study.cells(_digest)
    ids = [cell.id for cell in cells]
    if not has_begun(run.store):
        require_free(run.store)
    finished = undamaged(run.store, done(run.store, ids))
    there = len(run.store.names("pictures"))
    if len(finished) == len(ids):
        _write(run, study, cells)
        return _show(run)
    told = [(one.get("extra_pnginfo") or {}).get(_TOLD) or {} for one in server.waiting()]
    waiting = {one.get("id") for one in told if one.get("folder") == run.folder}
    left = [cell for cell in cells if cell.id not in finished and cell.id not in waiting]
    _queue_all(server, run, left)
    _write(run, study, cells)  # no cell begins before this node ends
    text = f"{run.folder}: {len(ids)} cells, {len(finished)} done, {len(left)} queued"
    waits = len(ids) - len(finished) - len(left)
    text += f", {waits} in the queue already" if waits else ""
    others = there - len(finished)
    text += f"; beside {others} pictures of other values or workflows" if others else ""
    return Result((_blocked(), text), {"text": (text,)})


def _write(run: _Run, study: WorkflowStudy, cells: Sequence[WorkflowCell]) -> None:
    write_order(run.store, [Entry(cell.id, (cell.place,)) for cell in cells])
    study.write(run.store)


def _queue_all(server: OwnServer, run: _Run, cells: Iterable[WorkflowCell]) -> None:
    """Queue cells, and last what shows all; or nothing, where the server does not take one."""
    told = {"folder": run.folder}
    own = run.prompt[run.node]
    leading = leading_to(run.node, run.prompt)  # to the model as well
    base = {node: one for node, one in run.prompt.items() if node in leading}
    queued: list[str] = []
    what = ""
    try:
        for cell in cells:
            what = f"the cell {dict(cell.place)}"
            prompt = {**base, **cell.prompt, run.node: own}
            about = {_TOLD: {**told, "id": cell.id, "place": dict(cell.place)}}
            queued.append(server.queue(prompt, about, [run.node]))
        after = reached_from(run.node, run.prompt)
        if any(run.prompt[one]["class_type"] == _ID for one in after - {run.node}):
            after = {run.node}
        what = "what follows the last cell"
        server.queue(run.prompt, {_TOLD: told}, after)
    except BaseException as error:
        server.drop(queued)
        if isinstance(error, Refused):
            raise ValueError(f"study: the server does not take {what}: {error}") from None
        raise


def _record(run: _Run, place: Mapping[str, Any], images: Any, model: Any) -> Result:
    """Keep the picture of a cell."""
    description = run.description()
    cell = id_of(description)
    if images is not None and not is_done(run.store, cell):
        seconds = time.perf_counter() - _began.pop(cell, time.perf_counter())
        version = getattr(comfy.module("comfyui_version"), "__version__", None)
        write_cell(
            # Several pictures of a batch stand side by side.
            images.detach().cpu().float().permute(1, 0, 2, 3).flatten(1, 2).numpy(),
            description,
            place,
            run.store,
            prompt=saving_prompt(
                {n: run.prompt[n] for n in description["nodes"]}, run.picture, run.node
            ),
            stack=PatchStack() if model is None else attnpatch.attached(model),
            seconds=seconds,
            host={} if version is None else {"comfyui": version},
        )
    file = Path(picture_name(cell))
    shown = {
        "filename": file.name,
        "subfolder": f"{run.subfolder}/{file.parent.as_posix()}",
        "type": "output",
    }
    return Result((run.folder, f"{run.folder}: {cell}"), {"images": [shown]})


def _show(run: _Run) -> Result:
    """Write the table, the sheet and the page of what is done, and let others have the folder."""
    results = attnpatch.load_study(run.store.location)
    order = read_order(run.store)
    publish(results.study, order, done(run.store, (one.id for one in order)), run.store)
    text = f"{run.folder}: {len(results)} of {len(order)} cells done"
    shown: dict[str, Any] = {"text": (text,)}
    if not results:
        return Result((_blocked(), text), shown)
    sheet = {"filename": "sheet.png", "subfolder": run.subfolder, "type": "output"}
    return Result((run.folder, text), {**shown, "images": [sheet]})


def _blocked() -> Any:
    """Return what keeps the host from running the nodes that would take an output."""
    graph = comfy.module("comfy_execution.graph_utils")
    return None if graph is None else graph.ExecutionBlocker(None)


FOLDER = Input(
    id="folder",
    type="STRING",
    default="sweep",
    tooltip="The results' folder, in the host's output folder.",
)

NODES = (
    NodeSpec(
        id=_ID,
        title="Queue Sweep (attention patches)",
        category="attnpatch",
        description="Queues one run of the workflow for each cell of a study: values set into "
        "inputs of its nodes. Pictures go to a folder with a table, a contact sheet and a page to "
        "browse them. Running it again queues what is missing, and nothing else.",
        inputs=(
            Input(
                id="images",
                type="IMAGE",
                tooltip="The picture of a cell. What leads here is what a study may vary; it runs "
                "for the cells alone. Several pictures of a batch are put side by side.",
                lazy=True,
            ),
            Input(
                id="study",
                type="STRING",
                default=_EXAMPLE,
                multiline=True,
                tooltip="Axes as TOML, or the name of such a file in the input folder. An axis is "
                "called NODE.INPUT: the node's title, its class or its id.",
            ),
            FOLDER,
            Input(
                id="at_most",
                type="INT",
                default=100,
                minimum=1,
                maximum=10000,
                tooltip="More cells than this are an error, so that nobody queues them unawares.",
            ),
            Input(
                id="model",
                type="MODEL",
                tooltip="The model that samples: its patches are kept with each picture.",
                optional=True,
                lazy=True,
            ),
        ),
        outputs=(
            Output("STRING", "folder", "The results' folder, once the last cell is done."),
            Output("STRING", "report", "How many cells there are, are done, and were queued."),
        ),
        run=_sweep,
        output_node=True,
        fingerprint=lambda **values: float("nan"),  # what is done changes
        hidden=("prompt", "extra_pnginfo", "unique_id"),
        needs=_needs,
    ),
)
