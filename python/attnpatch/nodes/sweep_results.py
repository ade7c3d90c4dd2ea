# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The node that reads the results of a sweep."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import attnpatch
from attnpatch.nodes import comfy
from attnpatch.nodes.spec import Input, NodeSpec, Output, Result
from attnpatch.nodes.sweep import FOLDER
from attnpatch.studies.names import unknown_name
from attnpatch.studies.results.loading import StudyResults
from attnpatch.studies.results.rows import as_csv, cell_of_table
from attnpatch.studies.results.store import Store
from attnpatch.studies.toml import read_toml

__all__ = ["NODES"]


def _read(*, folder: str, cells: str, at_most: int) -> Result:
    results = attnpatch.load_study(comfy.within("output", folder, "folder"))
    chosen = _choose(results, cells)
    if not chosen:
        raise ValueError(
            f"cells: expected some that are done, got none of the {len(results)} in {folder!r}"
        )
    pictures = [chosen.picture(place).convert("RGB") for place in range(min(at_most, len(chosen)))]
    text = f"{folder}: {len(pictures)} of {len(chosen)} chosen, {len(results)} done"
    sheet = _batch([chosen.sheet()])
    return Result((_batch(pictures), sheet, as_csv(chosen.rows), len(chosen)), {"text": (text,)})


def _choose(results: StudyResults, text: str) -> StudyResults:
    """Return the rows that a table of TOML asks for: values, or several in a list."""
    for name, wanted in read_toml(text, "cells").items():
        if not results:
            break
        if name not in results[0]:
            raise unknown_name("cells", name, results[0])
        # A window is a list itself: it may be asked for as it is, or among several.
        several = [wanted, *wanted] if isinstance(wanted, list) else [wanted]
        values = [cell_of_table(value) for value in several]
        results = results.some(i for i, row in enumerate(results) if row[name] in values)
    return results


def _batch(pictures: list[Image.Image]) -> Tensor:
    """Return pictures (B, H, W, 3), 0 to 1; smaller ones in the middle of black."""
    width, height = (max(one.size[axis] for one in pictures) for axis in (0, 1))
    found = []
    for one in pictures:
        page = Image.new("RGB", (width, height))
        page.paste(one, ((width - one.width) // 2, (height - one.height) // 2))
        found.append(torch.from_numpy(np.array(page, np.float32) / 255))
    return torch.stack(found)


def _state(*, folder: str | None = None, **values: Any) -> Any:
    """Return what changes with every cell that is done."""
    if folder is None:  # it comes from another node
        return float("nan")
    names = Store(comfy.within("output", folder, "folder")).names("records")
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


NODES = (
    NodeSpec(
        id="AttentionPatchesSweepResults",
        title="Sweep Results (attention patches)",
        category="attnpatch",
        description="Reads the results of a sweep, of Queue Sweep or of the command attnpatch "
        "sweep, also while it runs: pictures, a contact sheet, and the table.",
        inputs=(
            FOLDER,
            Input(
                id="cells",
                type="STRING",
                default="",
                multiline=True,
                tooltip='Which cells, as TOML: "KSampler.cfg" = 6.0, or several values in a list. '
                "Nothing: all.",
            ),
            Input(
                id="at_most",
                type="INT",
                default=64,
                minimum=1,
                maximum=4096,
                tooltip="How many pictures the batch has at most: the first ones. The sheet and "
                "the table are of all that were chosen.",
            ),
        ),
        outputs=(
            Output("IMAGE", "images", "The pictures; smaller ones in the middle of black."),
            Output("IMAGE", "sheet", "The contact sheet; of more than 240 cells every n-th."),
            Output("STRING", "table", "A row for each cell, as CSV."),
            Output("INT", "count", "How many cells were chosen."),
        ),
        run=_read,
        output_node=True,
        fingerprint=_state,
    ),
)
