# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Writes the reference of all nodes from the table: ``python -m attnpatch.nodes.docs FILE``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from attnpatch.nodes.registry import NODES
from attnpatch.nodes.spec import Input, NodeSpec

__all__ = ["render"]

_HEAD = """\
# Nodes

Written by `python -m attnpatch.nodes.docs docs/nodes.md` from the table that also makes the node
classes. Change the table, not this file.

Nodes of image prompts have the ids, inputs, ranges and sockets of ComfyUI_IPAdapter_plus, so that
its workflows load; inputs of ours come last and may be missing. If both packs are installed, the
one that ComfyUI loads later serves these nodes. Loaders of either pack feed the nodes of the other.

What differs from that pack:

- All layers are patched, the middle block too. `reference_quirks` leaves it out, weighs the
  composition by 1 in *style and composition*, and takes norms over pictures in *norm average*.
- Adding to a model that has patches makes a new model; nothing adds up when a workflow runs again.
- Masks land on the true grid of every layer, for any size.
- Embeds are saved as safetensors and may be loaded from the output folder. `.ipadpt` files still
  load; code in them never runs.
- Style & Composition works with SD1.5 as well.
- Masks that Tiled resizes stay within 0 and 1.
- The ClipVision Enhancer averages pooled embeddings of tiles, for adapters that take those.
- Random weights depend on the node's inputs alone.
- Tokens, keys and values are computed once, when the node runs; sampling only reads them.
- The FaceID adapter for Kolors needs a model with Kolors' own UNet (`encoder_hid_proj`), which
  other packs bring; with any other model it is an error, which says so.
"""


def render(nodes: Sequence[NodeSpec] = NODES) -> str:
    """Write the reference of nodes as Markdown, by category."""
    parts = [_HEAD]
    for category in dict.fromkeys(spec.category for spec in nodes):
        parts.append(f"\n## {category}\n")
        for spec in nodes:
            if spec.category == category:
                parts.append("\n".join(_describe(spec)))
    return "\n".join(parts)


def _describe(spec: NodeSpec) -> Iterator[str]:
    yield f"### {spec.title}"
    yield f"`{spec.id}`. {spec.description}"
    yield ""
    yield "| input | type | values | |"
    yield "| --- | --- | --- | --- |"
    for declared in spec.inputs:
        optional = " (optional)" if declared.optional else ""
        name, values = f"`{declared.id}`{optional}", _values(declared)
        yield f"| {name} | {declared.type} | {values} | {declared.tooltip} |"
    yield ""
    if spec.outputs:
        yield "| output | type | |"
        yield "| --- | --- | --- |"
        for output in spec.outputs:
            yield f"| {output.name} | {output.type} | {output.tooltip} |"
        yield ""


def _values(declared: Input) -> str:
    if declared.type == "COMBO":
        if callable(declared.choices):
            return "files"
        choices = declared.options()
        default = choices[0] if declared.default is None else declared.default
        return ", ".join(f"**{name}**" if name == default else str(name) for name in choices)
    if declared.type in ("FLOAT", "INT"):
        step = "" if declared.step in (None, 1) else f", step {_number(declared.step)}"
        low, high = _number(declared.minimum), _number(declared.maximum)
        return f"**{_number(declared.default)}**; {low} to {high}{step}"
    if declared.type == "BOOLEAN":
        return "**yes**" if declared.default else "**no**"
    if declared.type == "STRING" and declared.multiline and "\n" in (declared.default or ""):
        return "several lines"
    if declared.type == "STRING":
        return f"**{declared.default}**" if declared.default else "empty"
    return ""


def _number(value: float | None) -> str:
    return "" if value is None else str(int(value) if value == int(value) else value)


def main() -> None:
    """Write the file that the command line names."""
    Path(sys.argv[1]).write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
