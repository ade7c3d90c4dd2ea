# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""As much of ComfyUI's later node interface (``comfy_api.latest``) as our classes use."""

from dataclasses import dataclass, field
from types import SimpleNamespace


class _Input:
    allowed = ()

    def __init__(self, id, *, optional=False, tooltip=None, **values):
        unknown = values.keys() - set(self.allowed)
        assert not unknown, f"{type(self).__name__} has no {unknown}"
        self.id, self.optional, self.tooltip, self.values = id, optional, tooltip, values


@dataclass
class _Output:
    io_type: str
    display_name: str
    tooltip: str


def _kind(name, *allowed):
    given = type(f"{name}Input", (_Input,), {"allowed": allowed, "io_type": name})

    def output(display_name=None, tooltip=None):
        return _Output(name, display_name, tooltip)

    return SimpleNamespace(Input=given, Output=output)


@dataclass
class Schema:
    node_id: str
    display_name: str
    category: str
    description: str
    inputs: list
    outputs: list
    is_output_node: bool = False
    hidden: list = field(default_factory=list)


@dataclass(init=False)
class NodeOutput:
    args: tuple
    ui: dict = field(default=None)

    def __init__(self, *args, ui=None):
        self.args, self.ui = args, ui


class ComfyNode:
    hidden = None


class ComfyExtension:
    pass


_NUMBER = ("default", "min", "max", "step")
io = SimpleNamespace(
    Float=_kind("FLOAT", *_NUMBER),
    Int=_kind("INT", *_NUMBER),
    String=_kind("STRING", "default", "multiline"),
    Boolean=_kind("BOOLEAN", "default"),
    Combo=_kind("COMBO", "default", "options"),
    Custom=lambda name: _kind(name, "lazy"),
    Hidden=SimpleNamespace(prompt="PROMPT", extra_pnginfo="EXTRA_PNGINFO", unique_id="UNIQUE_ID"),
    Schema=Schema,
    NodeOutput=NodeOutput,
    ComfyNode=ComfyNode,
)
