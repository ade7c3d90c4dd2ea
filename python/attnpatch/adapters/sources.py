# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Where an adapter's file is: named, in a folder, or in a repository of the Hugging Face hub."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath

from attnpatch.adapters.files import INDEX_SUFFIX, SHARD, read_index
from attnpatch.adapters.state_dicts import NoAdapterError

_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".ckpt"}
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
# What training leaves beside weights.
_NO_WEIGHTS = re.compile(r"optimizer|scheduler|scaler|random_states|rng_state|training_args")


@dataclass(frozen=True)
class Location:
    """Where in a folder or repository a file is, and how a repository is reached.

    Parameters are those of diffusers' `load_ip_adapter` and `huggingface_hub.hf_hub_download`.
    """

    subfolder: str | None = None
    weight_name: str | None = None
    revision: str | None = None
    cache_dir: str | os.PathLike[str] | None = None
    local_files_only: bool = False
    token: str | bool | None = None

    def given(self, *names: str) -> list[str]:
        """Names of what is not left at its default, among all or some."""
        wanted = [f for f in fields(self) if not names or f.name in names]
        return [f.name for f in wanted if getattr(self, f.name) != f.default]

    def check_unused(self, source: str, *names: str) -> None:
        """Refuse arguments that would do nothing with this source.

        Raises
        ------
        ValueError
            One of `names` is given.
        """
        for name in self.given(*names):
            raise ValueError(f"{name}: expected None with {source}, got {getattr(self, name)!r}")


def find_file(
    source: str | os.PathLike[str], location: Location | None, check: Callable[[Path], None]
) -> Path:
    """Find the one file of an adapter.

    Parameters
    ----------
    source : path or str
        A file, a folder, or the name of a repository ("h94/IP-Adapter").
    location : Location, optional
        Where in the folder or repository. None: whoever asks takes files and folders alone.
    check : callable
        Raises `NoAdapterError` for a file that holds nothing of an adapter, and other ValueErrors
        for one that can not be read.

    Raises
    ------
    FileNotFoundError, ValueError
        Nothing there, or more than one adapter.
    """
    path, on_hub = Path(source), location is not None
    location = location or Location()
    if path.is_file():
        location.check_unused(f"the file {path}", "subfolder", "weight_name", "revision")
        return path
    if path.is_dir():
        location.check_unused(f"the folder {path}", "revision")
        path = path / (location.subfolder or "") / (location.weight_name or "")
        if path.is_dir():
            return _find_in_folder(path, check)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file or folder")
        return path
    if on_hub and isinstance(source, str) and _HUB_ID.fullmatch(source):
        if location.weight_name:
            return _download(source, location.weight_name, location)
        if location.given():
            raise ValueError(
                f"weight_name: expected the name of a file in the hub's repository {source}, got "
                f"{location.weight_name!r}"
            )
        raise FileNotFoundError(
            f"{source}: no such file or folder; for the hub's repository of that name give the "
            "file's weight_name, and its subfolder"
        )
    raise FileNotFoundError(f"{path}: no such file or folder")


def check_shard(path: Path) -> None:
    """Refuse a single shard of a checkpoint: it does not hold all tensors.

    Raises
    ------
    ValueError
        The file is one of several.
    """
    match = SHARD.fullmatch(path.name)
    if match and int(match["count"]) > 1:
        index = f"{match['stem']}{match['suffix']}{INDEX_SUFFIX}"
        there = "" if (path.parent / index).is_file() else ", which is missing here"
        raise ValueError(
            f"{path.name}: shard {int(match['number'])} of {int(match['count'])}; expected the "
            f"checkpoint's index {index}{there}"
        )


def _find_in_folder(folder: Path, check: Callable[[Path], None]) -> Path:
    adapters: list[str] = []
    broken: list[str] = []
    others: list[str] = []
    for path in _candidates(folder):
        name = path.relative_to(folder).as_posix()
        try:
            check(path)
        except NoAdapterError:
            others.append(name)
        except ValueError as error:
            broken.append(f"{name.removesuffix(path.name)}{error}")
        else:
            adapters.append(name)
    if len(adapters) == 1 and not broken:
        return folder / adapters[0]
    if len(adapters) > 1:
        raise ValueError(
            f"{folder}: expected one adapter in the folder, got {len(adapters)}: "
            f"{', '.join(adapters)}; name one of these files"
        )
    if broken:
        beside = f" beside {adapters[0]}" if adapters else ""
        raise ValueError(
            f"{folder}: expected one whole adapter in the folder, got files{beside} that can not "
            f"be read: {'; '.join(broken[:5])}"
        )
    others_named = (
        f"{len(others)} without one: {', '.join(others[:5])}" if others else "no such files"
    )
    raise NoAdapterError(
        f"{folder}: expected a file of an adapter ({', '.join(sorted(_SUFFIXES))}), "
        f"got {others_named}"
    )


def _candidates(folder: Path) -> list[Path]:
    """Files that may hold weights; the index stands for its shards."""
    paths = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).parts
        if any(part.startswith(".") for part in inside) or _NO_WEIGHTS.search(path.name):
            continue
        if path.name.endswith(INDEX_SUFFIX) or path.suffix in _SUFFIXES:
            paths.append(path)
    indexed = set()
    for path in paths:
        if path.name.endswith(INDEX_SUFFIX):
            try:
                indexed |= {path.parent / name for name in read_index(path).values()}
            except ValueError:  # reported when it is read as an adapter
                continue
    return [path for path in paths if path.is_file() and path not in indexed]


def _download(repository: str, weight_name: str, location: Location) -> Path:
    """Fetch a file of a repository, and its shards if it is an index, into the hub's cache."""
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError
    except ImportError as error:
        raise ImportError(
            f"source: expected the package huggingface_hub for the repository {repository}, got "
            f"{error}"
        ) from error

    def fetch(name: str) -> Path:
        try:
            return Path(
                hf_hub_download(
                    repository,
                    name,
                    subfolder=location.subfolder or None,
                    revision=location.revision,
                    cache_dir=None if location.cache_dir is None else os.fspath(location.cache_dir),
                    local_files_only=location.local_files_only,
                    token=location.token,
                )
            )
        except (OSError, EntryNotFoundError) as error:
            where = PurePosixPath(repository, location.subfolder or "", name)
            reason = str(error).strip() or type(error).__name__
            raise FileNotFoundError(f"{where}: not got from the hub: {reason}") from error

    path = fetch(weight_name)
    if path.name.endswith(INDEX_SUFFIX):
        for shard in sorted(set(read_index(path).values())):
            fetch(str(PurePosixPath(weight_name).parent / shard))
    return path
