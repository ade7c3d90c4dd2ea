# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Node classes in the form that every ComfyUI loads, made from the table."""

from __future__ import annotations

from typing import Any

from attnpatch.nodes.spec import Input, NodeSpec

__all__ = ["make_v1_class"]


def make_v1_class(spec: NodeSpec) -> type:
    """Make the class of a node for ``NODE_CLASS_MAPPINGS``."""

    def input_types(cls: type) -> dict[str, dict[str, Any]]:
        types: dict[str, dict[str, Any]] = {"required": {}, "optional": {}}
        for declared in spec.inputs:
            types["optional" if declared.optional else "required"][declared.id] = _declare(declared)
        if spec.hidden:
            types["hidden"] = {name: name.upper() for name in spec.hidden}
        return types

    def run(self: object, **values: Any) -> tuple[Any, ...] | dict[str, Any]:
        result = spec.call(values)
        if result.ui is None:
            return result.values
        return {"ui": dict(result.ui), "result": result.values}

    members: dict[str, Any] = {
        "__doc__": spec.description,
        "INPUT_TYPES": classmethod(input_types),
        "RETURN_TYPES": tuple(output.type for output in spec.outputs),
        "RETURN_NAMES": tuple(output.name for output in spec.outputs),
        "OUTPUT_TOOLTIPS": tuple(output.tooltip for output in spec.outputs),
        "FUNCTION": spec.function,
        "CATEGORY": spec.category,
        "DESCRIPTION": spec.description,
        "OUTPUT_NODE": spec.output_node,
        spec.function: run,
    }
    if (fingerprint := spec.fingerprint) is not None:
        members["IS_CHANGED"] = classmethod(lambda cls, **values: fingerprint(**values))
    if (needs := spec.needs) is not None:
        members["check_lazy_status"] = lambda self, **values: needs(**values)
    if spec.check is not None:
        members["VALIDATE_INPUTS"] = classmethod(spec.check)
    return type(spec.id, (), members)


def _declare(declared: Input) -> tuple[Any, ...]:
    shown = declared.options() if declared.type == "COMBO" else declared.type
    return shown, declared.attributes()
