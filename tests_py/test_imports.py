# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""No module needs itself on the way, and each folder imports only what its place allows."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "python"
# What a folder may import beside itself; folders that are not named here may import any.
ALLOWED = {
    "ops": set(),
    "pictures": {"_native"},
    "engine": {"ops", "devices", "shown"},
    "adapters": {"ops", "pictures", "engine", "faces", "shown", "vision"},
    "patches": {"ops", "engine", "adapters", "faces", "pictures"},
    "hosts": {"ops", "engine", "patches", "adapters", "pictures", "shown"},
    "notebook": {"display", "engine", "hosts", "patches", "pictures"},
    "display": {"engine", "patches", "adapters", "faces", "hosts", "pictures", "shown"},
    "studies": {"engine", "patches", "adapters", "faces", "pictures", "hosts", "demo", "devices"},
}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in (ROOT / "attnpatch").rglob("*.py")}


def imported(name):
    """Every module that one imports anywhere: in functions and for types, too."""
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module != "attnpatch":
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module


GRAPH = {name: {m for m in imported(name) if m in MODULES} - {name} for name in MODULES}


def test_no_module_needs_itself_on_the_way():
    try:
        tuple(TopologicalSorter(GRAPH).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("folder", ALLOWED)
def test_folders_keep_their_place(folder):
    allowed = {folder, *ALLOWED[folder]}
    found = {
        f"{name} imports {other}"
        for name, others in GRAPH.items()
        if name.split(".")[1:2] == [folder]
        for other in others
        if other.split(".")[1] not in allowed
    }
    assert not found


def test_engine_names_no_model():
    """It asks for spans of tokens, never for an architecture or the layers of one."""
    words = ("flux", "qwen", "sdxl", "anima", "attn1", "attn2", '"cross"', '"self"')
    for name, path in MODULES.items():
        # Tables of layers and presets of weights go by a family's name.
        by_family = name.endswith((".layers", ".stack", ".report", ".weights"))
        if name.split(".")[1:2] != ["engine"] or by_family:
            continue
        text = path.read_text(encoding="utf-8").lower()
        assert not [word for word in words if word in text], name
