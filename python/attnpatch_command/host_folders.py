# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Hosts that are folders: ComfyUI, Forge, Fooocus; their models and the packs beside ours."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from attnpatch_command.findings import Finding

COMFYUI_VARIABLE = "ATTNPATCH_COMFYUI"


@dataclass(frozen=True)
class Host:
    """A program that is told by a file of its folder, where its version stands too."""

    name: str
    file: str
    models: tuple[str, ...] = ()
    """Folders that we look through, inside ``models``."""


HOSTS = (
    Host(
        "ComfyUI",
        "comfyui_version.py",
        ("ipadapter", "clip_vision", "loras", "insightface", "instantid", "controlnet"),
    ),
    Host("Forge", "modules_forge/forge_version.py"),
    Host("Fooocus", "fooocus_version.py"),
)

PACKS = {
    "comfyui_ipadapter_plus": "its nodes have the names of ours: one of both is loaded",
    "comfyui_instantid": "its nodes have the names of ours: one of both is loaded",
    "comfyui_slothful_attention": "its nodes have the names of ours: one of both is loaded",
    "sd-perturbed-attention": "its guidance patches the same slots; both work, one after the other",
    "comfyui-tomesd": "it merges tokens as TokenMerging does: use one of both",
    "comfyui-hypertile": "it tiles as HyperTile does: use one of both",
}
"""Known packs that have our nodes' names or patch the same slots."""


def examine(named: Iterable[Path]) -> Iterator[Finding]:
    """Yield the hosts found: those named, and those around the working folder."""
    given = list(named)
    variable = os.environ.get(COMFYUI_VARIABLE)
    if variable:
        given.append(Path(variable))
    around = [path for path in (Path.cwd(), *Path.cwd().parents) if path not in given]
    for folder in (*given, *around):
        host = next((host for host in HOSTS if (folder / host.file).is_file()), None)
        if host is not None:
            yield from _host(host, folder)
        elif folder in given:
            wanted = ", ".join(host.file for host in HOSTS)
            text = f"{folder}: expected one of {wanted} in it, got none"
            yield Finding("Hosts", "folder", text, "problem")


def _host(host: Host, folder: Path) -> Iterator[Finding]:
    text = (folder / host.file).read_text(encoding="utf-8", errors="replace")
    version = re.search(r"""version\w*\s*=\s*["']([^"']+)""", text)
    yield Finding("Hosts", host.name, f"{version[1] if version else 'unknown version'} in {folder}")
    for name in host.models:
        yield _models(folder / "models" / name)
    more = folder / "extra_model_paths.yaml"
    if more.is_file():
        text = "names more folders, which ComfyUI looks through and this does not"
        yield Finding("Model folders", more.name, text, "note")
    packs = folder / "custom_nodes"
    if packs.is_dir():
        yield from _packs(packs)


def _models(folder: Path) -> Finding:
    """Say how many files there are, without those that ComfyUI brings to say what goes there."""
    name = f"models/{folder.name}"
    if not folder.is_dir():
        return Finding("Model folders", name, "not there", "note")
    files = [path for path in folder.rglob("*") if path.is_file()]
    count = sum(not re.fullmatch("put_.*_here", path.name) for path in files)
    if count == 0:
        return Finding("Model folders", name, "empty", "note")
    return Finding("Model folders", name, "1 file" if count == 1 else f"{count} files")


def _packs(packs: Path) -> Iterator[Finding]:
    folders = sorted(path for path in packs.iterdir() if path.is_dir())
    ours = [
        path
        for path in folders
        if (path / "example_workflows/guidance_beside_a_prompt.json").exists()
    ]
    if ours:
        yield Finding("Packs", "attnpatch_nodes", str(ours[0]))
    else:
        remedy = f"link or copy comfyui/attnpatch_nodes into {packs}"
        yield Finding("Packs", "attnpatch_nodes", "not there", "note", remedy)
    for folder in folders:
        if folder.name.lower() in PACKS:
            yield Finding("Packs", folder.name, PACKS[folder.name.lower()], "note")
