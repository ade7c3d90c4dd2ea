# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What a workflow gave, in the folder that every sweep has."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from attnpatch.engine import PatchStack
from attnpatch.studies.results.png import to_levels, to_png, versions
from attnpatch.studies.results.records import Record, picture_name, write_records
from attnpatch.studies.results.stacks import StackWriter
from attnpatch.studies.results.store import Store
from attnpatch.studies.workflow.study import id_of

__all__ = ["saving_prompt", "write_cell"]


def write_cell(
    picture: npt.NDArray[Any],
    description: Mapping[str, Any],
    place: Mapping[str, Any],
    store: Store,
    *,
    prompt: Mapping[str, Any],
    stack: PatchStack,
    seconds: float,
    host: Mapping[str, str],
) -> Record:
    """Write a cell's picture, then its record.

    Parameters
    ----------
    picture
        (height, width, channels), 0 to 1.
    description
        All that decides on it.
    place
        The values of the axes.
    store
        Where to.
    prompt
        What the PNG says to ComfyUI, which opens it as a workflow.
    stack
        The patches of the model.
    seconds
        What the cell took.
    host
        Versions of the program.
    """
    cell = id_of(description)
    steps = max(1, _steps(description["nodes"].values()))
    record: Record = {
        "id": cell,
        "place": dict(place),
        "pipeline": {},
        "patched": True,
        "file": picture_name(cell),
        "seconds_per_step": seconds / steps,
        "rows": 1,
        "steps": steps,
        "measures": {"seconds": seconds},
    }
    metadata = {
        "cell": description,
        "stack": StackWriter(store).to_json(stack),
        "record": record,
        "versions": {**versions(), **host},
    }
    data = to_png(to_levels(np.asarray(picture)), metadata, prompt=json.dumps(prompt))
    store.write(record["file"], data)
    write_records(store, [record])
    return record


def saving_prompt(prompt: Mapping[str, Any], picture: tuple[str, int], node: str) -> dict[str, Any]:
    """Return a prompt whose picture a plain node saves, of the id `node`."""
    inputs = {"images": list(picture), "filename_prefix": "ComfyUI"}
    return {**prompt, node: {"class_type": "SaveImage", "inputs": inputs}}


def _steps(nodes: Sequence[Mapping[str, Any]]) -> int:
    """Return how many steps the samplers of a workflow have together."""
    counts = (node["inputs"].get("steps") for node in nodes)
    return sum(one for one in counts if isinstance(one, int) and not isinstance(one, bool))
