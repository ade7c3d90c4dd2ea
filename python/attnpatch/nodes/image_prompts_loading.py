# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes that load image adapters, image encoders and face analysers."""

from __future__ import annotations

from typing import Any

from attnpatch.nodes import host
from attnpatch.nodes.sockets import load_adapter
from attnpatch.nodes.spec import Input, NodeSpec, Output

__all__ = ["NODES"]


def _adapter_files() -> list[str]:
    host.register_folder("ipadapter")
    return host.files_in("ipadapter")


def _load(*, ipadapter_file: str) -> tuple[Any]:
    return (load_adapter(host.path_of("ipadapter", ipadapter_file, "ipadapter_file")),)


_IPADAPTER_OUT = Output("IPADAPTER", "IPADAPTER", "The image adapter.")

NODES = (
    NodeSpec(
        id="IPAdapterModelLoader",
        title="IPAdapter Model Loader",
        category="ipadapter/loaders",
        description="Loads an image adapter by its file's name.",
        inputs=(
            Input(
                id="ipadapter_file",
                kind="COMBO",
                choices=_adapter_files,
                tooltip="A file in models/ipadapter, safetensors or bin. Its kind is told from its "
                "tensors.",
            ),
        ),
        outputs=(_IPADAPTER_OUT,),
        run=_load,
    ),
)
