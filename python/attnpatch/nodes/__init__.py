# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The ComfyUI node pack: thin nodes over ``attnpatch.patch_model``, made from one table.

A folder in ``custom_nodes`` needs only to import the names of this module.
"""

from importlib import import_module
from typing import Any

from attnpatch.nodes import comfy
from attnpatch.nodes.registry import NODES
from attnpatch.nodes.v1 import make_v1_class
from attnpatch.nodes.v3 import make_extension

__all__ = ["NODES", "NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "comfy_entrypoint"]

NODE_CLASS_MAPPINGS = {spec.id: make_v1_class(spec) for spec in NODES}
NODE_DISPLAY_NAME_MAPPINGS = {spec.id: spec.title for spec in NODES}

comfy.register_folder("ipadapter")
comfy.register_folder("instantid")


async def comfy_entrypoint() -> Any:
    """Give the nodes in the form of ComfyUI's later interface, for hosts that ask for it."""
    return make_extension(NODES, import_module("comfy_api.latest"))
