# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""attnpatch's nodes for ComfyUI. All that they do is in the installed package ``attnpatch``."""

import sys
from importlib import metadata
from pathlib import Path

OLDEST_TORCH = (2, 10)


def _what_is_missing() -> str:
    """Say in a line what keeps the package from being imported; empty where nothing is known."""
    try:
        metadata.version("attnpatch")
    except metadata.PackageNotFoundError:
        return (
            "the package attnpatch is not installed for the Python that runs ComfyUI. Install it "
            f'with: "{sys.executable}" -m pip install {_wheel()}'
        )
    torch = metadata.version("torch")
    if tuple(map(int, torch.split(".")[:2])) < OLDEST_TORCH:
        wanted = ".".join(map(str, OLDEST_TORCH))
        return f"torch: expected {wanted} or newer, got {torch}; update ComfyUI's torch"
    return ""


def _wheel() -> str:
    """Name what to install: a wheel, which needs no compiler, as long as there is one."""
    sources = Path(__file__).resolve().parents[2]  # where a symbolic link leads
    if any((sources / "dist").glob("attnpatch-*.whl")):
        return f'--only-binary attnpatch --find-links "{sources / "dist"}" attnpatch'
    if (sources / "csrc").is_dir():
        return f'"{sources}"'
    return f'--only-binary attnpatch -r "{Path(__file__).resolve().with_name("requirements.txt")}"'


try:
    from attnpatch.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
except ImportError:
    missing = _what_is_missing()
    if not missing:
        raise
    raise ImportError(f"attnpatch's nodes: {missing}") from None

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
