# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A study over a workflow: a prompt of ComfyUI, and the axes that it goes through."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from attnpatch.studies.axes import Axes
from attnpatch.studies.names import unknown_name
from attnpatch.studies.results.store import Store
from attnpatch.studies.table import Table, plain
from attnpatch.studies.toml import read_toml, to_toml
from attnpatch.studies.workflow.check import Definitions, check_value
from attnpatch.studies.workflow.graph import NodeInput, find_input, leading_to, with_values

__all__ = ["WorkflowCell", "WorkflowStudy", "describe", "id_of"]

_TOP = ("name", "axes")
_FILE = "workflow.json"
_MODELS = ("ckpt_name", "unet_name")

Digest = Callable[[str, str, str], str | None]
"""Gives the SHA-256 of the file that a text names in an input of a node's class; None: no file."""


@dataclass(frozen=True)
class WorkflowCell:
    """One picture: the values that lead to it, and the nodes that make it."""

    id: str
    place: Mapping[str, Any]
    prompt: Mapping[str, Any]


@dataclass(frozen=True)
class WorkflowStudy:
    """What is varied of a workflow, as one immutable value.

    Parameters
    ----------
    prompt : Mapping
        Nodes by their ids, as the server takes them.
    picture : (str, int)
        The node and its output that is the picture; what does not lead there is left out.
    axes : Axes, or a sequence of these
        Their names are "NODE.INPUT": a node's id, its title, or its class.
    name : str
        For people.

    Raises
    ------
    TypeError, ValueError
        For wrong names, with the nearest right name.

    Examples
    --------
    >>> prompt = {"1": {"class_type": "EmptyImage", "inputs": {"color": 0, "width": 64}}}
    >>> study = WorkflowStudy(prompt, ("1", 0), (Axes.grid({"EmptyImage.color": [0, 255]}),))
    >>> [cell.prompt["1"]["inputs"]["color"] for cell in study.cells()]
    [0, 255]
    """

    prompt: Table
    picture: tuple[str, int]
    axes: tuple[Axes, ...] = ()
    name: str = "sweep"

    def __post_init__(self) -> None:
        node = self.picture[0]
        needed = leading_to(node, self.prompt)
        kept = {one: given for one, given in self.prompt.items() if one in needed}
        if node not in kept:
            raise ValueError(f"picture: expected a node of the workflow, got {node!r}")
        object.__setattr__(self, "prompt", Table(kept))
        object.__setattr__(self, "picture", (str(node), int(self.picture[1])))
        object.__setattr__(self, "axes", tuple(self.axes))
        if not isinstance(self.name, str):
            raise TypeError(f"name: expected a text, got {self.name!r}")
        found: dict[NodeInput, str] = {}
        for name in self.axis_names:
            target = find_input(name, self._plain)
            if target in found:
                raise ValueError(
                    f"axes: expected each input once, got {found[target]!r} and {name!r}"
                )
            found[target] = name

    @functools.cached_property
    def _plain(self) -> dict[str, Any]:
        return plain(self.prompt)

    def __len__(self) -> int:
        """How many combinations of values there are."""
        return math.prod(len(axes) for axes in self.axes)

    @property
    def axis_names(self) -> tuple[str, ...]:
        """The inputs that are varied, in order."""
        return tuple(name for axes in self.axes for name in axes.names)

    @property
    def source(self) -> str:
        """What makes the pictures, for people."""
        models = [
            value
            for node in self.prompt.values()
            for key, value in node["inputs"].items()
            if key in _MODELS and isinstance(value, str)
        ]
        return ", ".join(dict.fromkeys(models)) or "a workflow of ComfyUI"

    def check(self, known: Definitions) -> None:
        """Check all values against what nodes declare of their inputs.

        Raises
        ------
        ValueError
            Naming the axis.
        """
        for axes in self.axes:
            for row in set(axes):
                for name, value in row.items():
                    target = find_input(name, self._plain)
                    kind = self.prompt[target.node]["class_type"]
                    check_value(name, plain(value), kind, target.name, known)

    def cells(self, digest: Digest = lambda class_type, name, text: None) -> list[WorkflowCell]:
        """Return all cells, each once: the last axis changes fastest.

        Parameters
        ----------
        digest
            Gives the SHA-256 of the files that inputs name: cells count by what these hold.
        """
        rows = [Table()]
        for axes in self.axes:
            rows = [Table({**row, **more}) for row in rows for more in axes]
        targets = {name: find_input(name, self._plain) for name in self.axis_names}
        found: dict[str, WorkflowCell] = {}
        for row in rows:
            prompt = with_values(self._plain, [(targets[n], v) for n, v in row.items()])
            cell = id_of(describe(prompt, self.picture, digest))
            found.setdefault(cell, WorkflowCell(cell, plain(row), prompt))
        return list(found.values())

    @classmethod
    def from_toml(
        cls, text: str, prompt: Mapping[str, Any], picture: tuple[str, int]
    ) -> WorkflowStudy:
        """Read ``name`` and ``[[axes]]``, as every study has them."""
        values = read_toml(text, "study")
        for name in values:
            if name not in _TOP:
                raise unknown_name("study", name, _TOP)
        given = values.pop("axes", [])
        given = [given] if isinstance(given, Mapping) else given
        axes = tuple(Axes.from_plain(one) for one in given)
        return cls(Table(prompt), picture, axes, **values)

    def write(self, store: Store) -> None:
        """Write the study beside its results."""
        values = {"name": self.name, "workflow": _FILE}
        text = to_toml({**values, "axes": [axes.to_plain() for axes in self.axes]})
        data = {"prompt": self._plain, "picture": list(self.picture)}
        store.write(_FILE, json.dumps(data, indent=1, allow_nan=False).encode())
        store.write("study.toml", text.encode())

    @classmethod
    def read(cls, values: Mapping[str, Any], store: Store) -> WorkflowStudy:
        """Read what ``write`` wrote; `values` are those of ``study.toml``."""
        data = json.loads(store.read(_FILE))
        axes = tuple(Axes.from_plain(one) for one in values.get("axes", ()))
        return cls(Table(data["prompt"]), tuple(data["picture"]), axes, values["name"])


def describe(prompt: Mapping[str, Any], picture: tuple[str, int], digest: Digest) -> dict[str, Any]:
    """Return all that decides on a picture: nodes and their inputs; files by their SHA-256."""
    nodes = {}
    for node in sorted(leading_to(picture[0], prompt)):
        kind, inputs = prompt[node]["class_type"], {}
        for key, value in prompt[node]["inputs"].items():
            found = digest(kind, key, value) if isinstance(value, str) else None
            whole = isinstance(value, float) and value.is_integer()
            inputs[key] = {"sha256": found} if found else int(value) if whole else value
        nodes[node] = {"class_type": kind, "inputs": inputs}
    return {"nodes": nodes, "picture": list(picture)}


def id_of(description: Mapping[str, Any]) -> str:
    """Return the hash of a description, 16 hexadecimal digits."""
    text = json.dumps(description, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
