# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Stacks as JSON, their tensors in files of their own: each is written once for all pictures."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from attnpatch.engine import Patch, PatchStack
from attnpatch.engine.patch import patch_of
from attnpatch.studies.results.png import read_metadata
from attnpatch.studies.results.store import Store

__all__ = ["StackWriter", "stack_from_json", "stack_from_png"]

_FOLDER = "tensors"
_FILE = re.compile(rf"{_FOLDER}/[0-9a-f]{{64}}\.safetensors")


class StackWriter:
    """Writes the tensors of patches into a store.

    Parameters
    ----------
    store
        Where to.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        # By the tensors' identities; they are kept, so that no other has the same meanwhile.
        self._written: dict[tuple[int, ...], tuple[list[Tensor], str]] = {}

    def to_json(self, patches: Sequence[Patch]) -> list[dict[str, Any]]:
        """Return patches as JSON has them, with the names of the files of their tensors."""
        found = []
        for patch in patches:
            values, tensors = patch.state()
            # A mask is small and changes often, keys and values are large and seldom do.
            apart = [
                {name: t for name, t in tensors.items() if (name == "mask") == masks}
                for masks in (False, True)
            ]
            files = [self._write(part) for part in apart if part]
            found.append({"kind": patch.type_name, "values": values, "files": files})
        return found

    def _write(self, tensors: Mapping[str, Tensor]) -> str:
        key = tuple(id(tensor) for tensor in tensors.values())
        if key not in self._written:
            own = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
            data = safetensors.torch.save(own)
            name = f"{_FOLDER}/{hashlib.sha256(data).hexdigest()}.safetensors"
            if not self._store.has(name):
                self._store.write(name, data)
            self._written[key] = (list(tensors.values()), name)
        return self._written[key][1]


def stack_from_json(entries: object, store: Store) -> PatchStack:
    """Return the stack again, with the tensors from a store.

    Raises
    ------
    ValueError
        For unknown kinds of patches, and for files that are not what was written.
    FileNotFoundError
        Where a file of tensors is missing.
    """
    if not isinstance(entries, list):
        raise ValueError(f"stack: expected a list of patches, got {entries!r}")
    patches = []
    for entry in entries:
        if not isinstance(entry, Mapping) or not entry.keys() >= {"kind", "values", "files"}:
            raise ValueError(f"stack: expected patches with kind, values and files, got {entry!r}")
        tensors: dict[str, Tensor] = {}
        for name in _files_of(entry):
            if not store.has(name):
                raise FileNotFoundError(
                    f"{store.path(name)}: expected the tensors of the picture, which its sweep "
                    "wrote; give the folder of the sweep's results"
                )
            data = store.read(name)
            if hashlib.sha256(data).hexdigest() not in name:
                raise ValueError(f"{name}: expected the SHA-256 that its name says")
            tensors |= safetensors.torch.load(data)
        try:
            patches.append(patch_of(entry["kind"], entry["values"], tensors))
        except ValueError as error:
            raise ValueError(f"stack: {error}") from error
    return PatchStack(patches)


def _files_of(entry: Mapping[str, Any]) -> list[str]:
    """Return the names of a patch's files: those that are written here, and no others."""
    names = entry["files"]
    fits = isinstance(names, list) and all(isinstance(n, str) and _FILE.fullmatch(n) for n in names)
    if not fits:
        raise ValueError(f"stack: expected files of tensors in {_FOLDER}/, got {names!r}")
    return names


def stack_from_png(
    file: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None
) -> PatchStack:
    """Return the patches that a picture of a sweep was made with.

    Parameters
    ----------
    file : path
        The PNG.
    folder : path or address, optional
        The sweep's results, which hold the tensors; by default where the picture lies.

    Raises
    ------
    ValueError
        For other pictures.
    FileNotFoundError
        Where the tensors are not in the folder.
    """
    entries = read_metadata(file).get("stack")
    place = Path(file).resolve().parent.parent.parent if folder is None else folder
    return stack_from_json(entries, Store(place))
