# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Files that a study names: where they are, and the SHA-256 of what they hold."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from pathlib import Path

__all__ = ["digest_of_file", "digest_of_model", "found", "is_hub_id", "there"]

# A model's folder holds these, its parts in folders of their own.
_OF_MODELS = (".bin", ".ckpt", ".json", ".model", ".onnx", ".pt", ".pth", ".safetensors", ".txt")


_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_WEIGHTS = (".bin", ".ckpt", ".pt", ".pth", ".safetensors")


def there(name: str, folder: Path) -> bool:
    """Whether a file or folder is there, seen from a study's folder."""
    return bool(name) and (folder / name).exists()


def is_hub_id(name: str) -> bool:
    """Whether a name may be one of the hub, and is none of a file of weights."""
    return bool(_HUB_ID.fullmatch(name)) and Path(name).suffix not in _WEIGHTS


def found(name: str, folder: Path) -> str:
    """Return the full path of what is there, seen from a study's folder; else the name itself."""
    path = folder / name
    return str(path.absolute()) if path.exists() else name


def digest_of_model(path: Path) -> str | None:
    """Return the SHA-256 of a model's file or folder; None: there is neither."""
    if path.is_file():
        return digest_of_file(path)
    if not path.is_dir():
        return None
    files = sorted(
        file
        for pattern in ("*", "*/*")
        for file in path.glob(pattern)
        if file.suffix in _OF_MODELS and not file.relative_to(path).as_posix().startswith(".")
    )
    parts = [[file.relative_to(path).as_posix(), digest_of_file(file)] for file in files]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest() if parts else None


def digest_of_file(path: Path) -> str:
    """Return the SHA-256 of a file; read once while its size and time stay the same."""
    stat = path.stat()
    return _digest(str(path.absolute()), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _digest(path: str, size: int, changed: int) -> str:
    del size, changed
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()
