# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A workflow as a graph of nodes, in the forms that the editor and the HTTP interface take."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from attnpatch.nodes import NODES
from attnpatch.nodes.spec import WIDGETS
from example_workflows.core_nodes import CORE, Inputs, Outputs

OURS = {spec.id: spec for spec in NODES}

# The editor draws a node's title above its position, a row for each socket and widget, and makes
# a node larger that shows a picture or a text of several lines: room is left for that.
TITLE, ROW, WIDTH = 30, 24, 340
BELOW = {
    "CLIPTextEncode": 120,
    "TextEncodeQwenImageEditPlus": 120,
    "AttentionPatchesWordWeights": 120,
    "AttentionPatchesSweep": 520,
    "AttentionPatchesSweepResults": 120,
    "LoadImage": 340,
    "SaveImage": 400,
    "PreviewImage": 400,
    "PreviewAny": 240,
}
SPACE_BESIDE, SPACE_BELOW = 80, 40


@dataclass(frozen=True)
class Link:
    """An output of a node of the graph."""

    node: int
    slot: int


@dataclass
class Node:
    """A node of the graph: links and widgets' values by input."""

    id: int
    type: str
    values: dict[str, Any]
    inputs: Inputs
    outputs: Outputs
    depth: int

    def __getitem__(self, name: str) -> Link:
        return Link(self.id, [output for output, _ in self.outputs].index(name))


@dataclass
class Graph:
    """A workflow."""

    nodes: list[Node] = field(default_factory=list)

    def add(self, kind: str, **values: Any) -> Node:
        """Add a node; inputs that are not given stay unconnected or get their default."""
        inputs, outputs = _shape(kind)
        unknown = values.keys() - inputs.keys()
        if unknown:
            raise ValueError(f"{kind}: it has no input {', '.join(sorted(unknown))}")
        links = [value for value in values.values() if isinstance(value, Link)]
        depth = max((self.nodes[link.node - 1].depth + 1 for link in links), default=0)
        if kind in OURS:
            missing = [i for i in OURS[kind].inputs if i.widget and i.id not in values]
            values |= {given.id: _default(given) for given in missing}
        node = Node(len(self.nodes) + 1, kind, values, inputs, outputs, depth)
        self.nodes.append(node)
        return node

    def api(self) -> dict[str, Any]:
        """Give the form that the HTTP interface takes."""

        def value(given: Any) -> Any:
            return [str(given.node), given.slot] if isinstance(given, Link) else given

        return {
            str(node.id): {
                "class_type": node.type,
                "inputs": {
                    name: value(node.values[name])
                    for name, kind in node.inputs.items()
                    if name in node.values and kind != "CONTROL"
                },
            }
            for node in self.nodes
        }

    def editor(self) -> dict[str, Any]:
        """Give the form that the editor saves."""
        links: list[list[Any]] = []
        outgoing: dict[Link, list[int]] = {}
        rows: dict[int, int] = {}
        drawn = []
        for node in self.nodes:
            sockets = [(n, k) for n, k in node.inputs.items() if k not in (*WIDGETS, "CONTROL")]
            # A widget that takes what another node gives has a socket beside it.
            widgets = [n for n, k in node.inputs.items() if k in (*WIDGETS, "CONTROL")]
            fed = [n for n in widgets if isinstance(node.values[n], Link)]
            inputs: list[dict[str, Any]] = []
            for slot, (name, kind) in enumerate([*sockets, *((n, node.inputs[n]) for n in fed)]):
                link = node.values.get(name)
                number = None
                if link is not None:
                    number = len(links) + 1
                    links.append([number, link.node, link.slot, node.id, slot, kind])
                    outgoing.setdefault(link, []).append(number)
                inputs.append({"name": name, "type": kind, "link": number})
                if name in fed:
                    inputs[-1]["widget"] = {"name": name}
            height = ROW * (1 + max(len(inputs), len(node.outputs)) + len(widgets))
            height += BELOW.get(node.type, 0)
            top = rows.get(node.depth, TITLE)
            rows[node.depth] = top + height + SPACE_BELOW + TITLE
            drawn.append(
                {
                    "id": node.id,
                    "type": node.type,
                    "pos": [(WIDTH + SPACE_BESIDE) * node.depth, top],
                    "size": [WIDTH, height],
                    "flags": {},
                    "order": node.id - 1,
                    "mode": 0,
                    "inputs": inputs,
                    "outputs": [],
                    "properties": {"Node name for S&R": node.type},
                    "widgets_values": [
                        _default_of(node.type, n) if n in fed else node.values[n] for n in widgets
                    ],
                }
            )
        for node, shown in zip(self.nodes, drawn, strict=True):
            shown["outputs"] = [
                {"name": name, "type": kind, "links": outgoing.get(Link(node.id, slot), [])}
                for slot, (name, kind) in enumerate(node.outputs)
            ]
        return {
            "last_node_id": len(self.nodes),
            "last_link_id": len(links),
            "nodes": drawn,
            "links": links,
            "groups": [],
            "config": {},
            "extra": {},
            "version": 0.4,
        }


def _shape(kind: str) -> tuple[Inputs, Outputs]:
    if kind in CORE:
        return CORE[kind]
    spec = OURS[kind]
    return (
        {given.id: given.type for given in spec.inputs},
        [(output.name, output.type) for output in spec.outputs],
    )


def _default_of(kind: str, name: str) -> Any:
    return next(_default(given) for given in OURS[kind].inputs if given.id == name)


def _default(given: Any) -> Any:
    return given.options()[0] if given.type == "COMBO" and given.default is None else given.default
