# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What nodes need of the program that they run in; every call has an answer outside of one."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import torch

__all__ = [
    "compute_device",
    "compute_dtype",
    "files_in",
    "folder",
    "module",
    "new_file",
    "offload_device",
    "path_of",
    "steps",
    "within",
]

T = TypeVar("T")
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_MODEL_FILES = {".safetensors", ".bin", ".pt", ".pth", ".ckpt"}


def module(name: str) -> ModuleType | None:
    """Find a module of the host, such as "comfy.utils"; None outside of it."""
    loaded = sys.modules.get(name)
    if loaded is None and "folder_paths" in sys.modules:
        with suppress(ImportError):
            loaded = importlib.import_module(name)
    return loaded


def compute_device() -> torch.device:
    """Tell where the host computes."""
    management = module("comfy.model_management")
    return torch.device("cpu") if management is None else management.get_torch_device()


def offload_device() -> torch.device:
    """Tell where the host keeps what it is not computing with."""
    management = module("comfy.model_management")
    return torch.device("cpu") if management is None else management.intermediate_device()


def compute_dtype(model: Any) -> torch.dtype:
    """Tell what the host's `model` computes in: its own dtype, or the one it casts to."""
    inner = getattr(model, "model", None)
    dtype = getattr(inner, "manual_cast_dtype", None)
    own = getattr(inner, "get_dtype", None)
    if dtype is None and own is not None:
        dtype = own()
    return dtype if dtype in _FLOATS else torch.float32


def steps(items: Iterable[T], total: int) -> Iterator[T]:
    """Go through the items: the host shows how far, and may interrupt between two of them."""
    utils, management = module("comfy.utils"), module("comfy.model_management")
    bar = utils.ProgressBar(total) if utils is not None and total > 1 else None
    for item in items:
        if management is not None:
            management.throw_exception_if_processing_interrupted()
        yield item
        if bar is not None:
            bar.update(1)


def register_folder(name: str) -> None:
    """Make a folder of models known to the host, beside what its configuration says."""
    paths = module("folder_paths")
    if paths is None:
        return
    known = paths.folder_names_and_paths
    where = known[name][0] if name in known else [str(Path(paths.models_dir) / name)]
    suffixes = set(known[name][1]) if name in known else set()
    known[name] = (where, suffixes | set(getattr(paths, "supported_pt_extensions", _MODEL_FILES)))


def files_in(name: str) -> list[str]:
    """List the files in a folder of models, as the host names them; none outside of a host."""
    paths = module("folder_paths")
    if paths is None or name not in paths.folder_names_and_paths:
        return []
    return list(paths.get_filename_list(name))


def path_of(name: str, file: str, argument: str) -> Path:
    """Find a file in a folder of models.

    Raises
    ------
    FileNotFoundError
        Naming `argument`, the file, and where it was looked for.
    """
    paths = module("folder_paths")
    path = None if paths is None else paths.get_full_path(name, file)
    if path is None:
        where = [] if paths is None else paths.get_folder_paths(name)
        raise FileNotFoundError(
            f"{argument}: no file {file!r} in {' or '.join(where) or 'any folder of models'}"
        )
    return Path(path)


def folder(name: str) -> Path:
    """Return the host's "input", "output" or "models" folder.

    Raises
    ------
    RuntimeError
        Outside of a host.
    """
    paths = _paths(name)
    if name == "models":
        return Path(paths.models_dir)
    return Path(paths.get_input_directory() if name == "input" else paths.get_output_directory())


def new_file(prefix: str, suffix: str) -> Path:
    """Return a path in the host's output folder, numbered as the host numbers its pictures."""
    output = str(folder("output"))
    where, name, counter, _, _ = _paths("output").get_save_image_path(prefix, output)
    return Path(where) / f"{name}_{counter:05}_{suffix}"


def _paths(name: str) -> ModuleType:
    paths = module("folder_paths")
    if paths is None:
        raise RuntimeError(f"no {name} folder: this node needs ComfyUI, which is not running here")
    return paths


def within(name: str, path: str, argument: str) -> Path:
    """Find a path in the host's "input" or "output" folder.

    Raises
    ------
    ValueError
        Naming `argument`, where it would be elsewhere, or the folder itself.
    """
    root = os.path.abspath(folder(name))
    found = os.path.abspath(os.path.join(root, path.strip()))
    if found == root or os.path.commonpath((root, found)) != root:
        raise ValueError(f"{argument}: expected a path in the {name} folder, got {path!r}")
    return Path(found)
