# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Node classes in the form of ComfyUI's later interface (``comfy_api``), made from the table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attnpatch.nodes.spec import Input, NodeSpec

__all__ = ["make_extension", "make_v3_class"]


def make_v3_class(spec: NodeSpec, io: Any) -> type:
    """Make the class of a node; `io` is ``comfy_api.latest.io``."""
    hidden = {"hidden": [getattr(io.Hidden, name) for name in spec.hidden]} if spec.hidden else {}

    def told(cls: Any) -> dict[str, Any]:
        return {name: getattr(cls.hidden, name) for name in spec.hidden}

    def define_schema(cls: type) -> Any:
        return io.Schema(
            node_id=spec.id,
            display_name=spec.title,
            category=spec.category,
            description=spec.description,
            inputs=[_declare(declared, io) for declared in spec.inputs],
            outputs=[
                io.Custom(output.type).Output(display_name=output.name, tooltip=output.tooltip)
                for output in spec.outputs
            ],
            is_output_node=spec.output_node,
            **hidden,
        )

    def execute(cls: type, /, **values: Any) -> Any:
        result = spec.call(values | told(cls))
        return io.NodeOutput(*result.values, ui=None if result.ui is None else dict(result.ui))

    members: dict[str, Any] = {
        "__doc__": spec.description,
        "define_schema": classmethod(define_schema),
        "execute": classmethod(execute),
    }
    if (fingerprint := spec.fingerprint) is not None:
        members["fingerprint_inputs"] = classmethod(lambda cls, **values: fingerprint(**values))
    if (needs := spec.needs) is not None:
        members["check_lazy_status"] = classmethod(
            lambda cls, **values: needs(**values, **told(cls))
        )
    if spec.check is not None:
        members["validate_inputs"] = classmethod(spec.check)
    return type(spec.id, (io.ComfyNode,), members)


def make_extension(specs: Sequence[NodeSpec], api: Any) -> Any:
    """Make the object that ``comfy_entrypoint`` returns; `api` is ``comfy_api.latest``."""
    nodes = [make_v3_class(spec, api.io) for spec in specs]

    class Extension(api.ComfyExtension):  # type: ignore[misc]
        async def get_node_list(self) -> list[type]:
            return nodes

    return Extension()


def _declare(declared: Input, io: Any) -> Any:
    values = declared.attributes() | {"optional": declared.optional}
    if declared.type == "COMBO":
        return io.Combo.Input(declared.id, options=declared.options(), **values)
    widgets = {"FLOAT": io.Float, "INT": io.Int, "STRING": io.String, "BOOLEAN": io.Boolean}
    return (widgets.get(declared.type) or io.Custom(declared.type)).Input(declared.id, **values)
