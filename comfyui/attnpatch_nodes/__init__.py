# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""attnpatch's nodes for ComfyUI. All that they do is in the installed package ``attnpatch``."""

import sys
from pathlib import Path

try:
    from attnpatch.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
except ModuleNotFoundError as error:
    if error.name != "attnpatch":
        raise
    sources = Path(__file__).resolve().parents[2]  # where a symbolic link leads
    if not (sources / "csrc").is_dir():
        sources = "FOLDER OF ATTNPATCH'S SOURCES"
    raise ImportError(
        "attnpatch's nodes: the package attnpatch is not installed for the Python that runs "
        f'ComfyUI. Install it with: "{sys.executable}" -m pip install "{sources}"'
    ) from None

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
