# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes and inputs of a prompt, as ComfyUI's server takes it: by name, and which lead where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from attnpatch.studies.names import unknown_name

__all__ = ["NodeInput", "Prompt", "find_input", "leading_to", "reached_from", "with_values"]

Prompt = Mapping[str, Mapping[str, Any]]
"""By a node's id its ``class_type``, its ``inputs``, and perhaps ``_meta`` with its ``title``."""


class NodeInput(NamedTuple):
    """An input of a node."""

    node: str
    name: str


def find_input(name: str, prompt: Prompt) -> NodeInput:
    """Find the input that a name such as "KSampler.seed" means.

    A node goes by its id, its title, or its class where one node alone has it.

    Raises
    ------
    ValueError
        Where there is none, with the nearest right name; or where several nodes are meant.
    """
    labels: dict[str, list[str]] = {}
    for node, given in prompt.items():
        title = given.get("_meta", {}).get("title")
        for label in dict.fromkeys((node, title, given["class_type"])):
            if label:
                labels.setdefault(label, []).append(node)
    # Names of nodes and of inputs may have dots of their own.
    meant = [label for label in labels if name.startswith(f"{label}.")]
    found = [
        NodeInput(node, name[len(label) + 1 :])
        for label in meant
        for node in labels[label]
        if name[len(label) + 1 :] in prompt[node]["inputs"]
    ]
    found = list(dict.fromkeys(found))
    if len(found) == 1:
        return found[0]
    if found:
        nodes = " and ".join(one.node for one in found)
        raise ValueError(
            f"axes: expected the input of one node, got {name!r} of the nodes {nodes}; an id names "
            f"one, as in '{found[0].node}.{found[0].name}'"
        )
    if meant:
        label = max(meant, key=len)
        inputs = {one for node in labels[label] for one in prompt[node]["inputs"]}
        raise unknown_name(f"axes: {label}", name[len(label) + 1 :], inputs)
    shown = {
        given.get("_meta", {}).get("title") or given["class_type"] for given in prompt.values()
    }
    raise unknown_name("axes", name, {f"{label}.INPUT" for label in shown})


def leading_to(node: str, prompt: Prompt) -> set[str]:
    """Return the ids of all nodes that an output of a node comes from, itself among them."""
    found: set[str] = set()
    left = [node]
    while left:
        one = left.pop()
        if one in found or one not in prompt:
            continue
        found.add(one)
        left += _sources(prompt[one])
    return found


def reached_from(node: str, prompt: Prompt) -> set[str]:
    """Return the ids of all nodes that take what a node gives, itself among them."""
    found = {node}
    while True:
        more = {one for one, given in prompt.items() if found & set(_sources(given))} - found
        if not more:
            return found
        found |= more


def with_values(prompt: Prompt, values: Iterable[tuple[NodeInput, Any]]) -> dict[str, Any]:
    """Return a prompt with other values; nodes that do not change are shared."""
    made: dict[str, Any] = dict(prompt)
    for target, value in values:
        node = made[target.node]
        made[target.node] = {**node, "inputs": {**node["inputs"], target.name: value}}
    return made


def _sources(node: Mapping[str, Any]) -> list[str]:
    """Return the nodes that an input of a node is linked to."""
    return [
        value[0]
        for value in node["inputs"].values()
        if isinstance(value, list | tuple) and len(value) == 2
        if isinstance(value[0], str) and isinstance(value[1], int)
    ]
