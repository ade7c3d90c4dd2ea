# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A folder of results: on this machine, or any location that fsspec reaches."""

from __future__ import annotations

import os
import posixpath
import uuid
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["Store"]


class Store:
    """Files under one location. A file is there whole or not at all.

    Parameters
    ----------
    location : str or path
        A folder, or an address such as ``"s3://bucket/sweep"`` or ``"memory://sweep"``. What has no
        ``://`` is a folder of this machine, whatever its name.
    """

    def __init__(self, location: str | os.PathLike[str]) -> None:
        self.location = os.fspath(location)
        if not isinstance(self.location, str) or not self.location or "\0" in self.location:
            raise ValueError(f"folder: expected a path or an address, got {self.location!r}")
        self._files: Any
        self._local = "://" not in self.location or self.location.startswith(("file:", "local:"))
        if "://" in self.location:
            self._files, self._root = import_module("fsspec.core").url_to_fs(self.location)
        else:  # a folder's name may hold what means something in an address, such as "::"
            self._files = import_module("fsspec").filesystem("file")
            full = os.path.abspath(os.path.expanduser(self.location))
            self._root = self._files._strip_protocol(full)

    def path(self, name: str) -> str:
        """Return the full path of a file."""
        return posixpath.join(self._root, name)

    @property
    def address(self) -> str:
        """The location, the same from every working directory."""
        return str(self.location) if self.folder is None else str(self.folder)

    @property
    def folder(self) -> Path | None:
        """The folder on this machine; None: it is elsewhere."""
        return Path(self._root) if self._local else None

    def require(self) -> None:
        """Make sure that files can be written, without writing one; addresses are taken as given.

        Raises
        ------
        NotADirectoryError, PermissionError
            Where a folder of this machine can not be made, or not be written to.
        """
        if not self._local:
            return
        root = Path(self._root)
        nearest = next(path for path in (root, *root.parents) if path.exists())
        if not nearest.is_dir():
            raise NotADirectoryError(f"{self.location}: expected a folder, got the file {nearest}")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise PermissionError(f"{self.location}: expected a folder that can be written to")

    def write(self, name: str, data: bytes) -> None:
        """Write a file; who reads meanwhile sees the old one or the new one."""
        path = self.path(name)
        if not self._local:  # stores of objects put whole objects
            self._files.makedirs(posixpath.dirname(path), exist_ok=True)
            self._files.pipe_file(path, data)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
        try:
            partial.write_bytes(data)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def read(self, name: str) -> bytes:
        """Return what a file holds.

        Raises
        ------
        FileNotFoundError
            Where there is none.
        """
        return self._files.cat_file(self.path(name))

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        return bool(self._files.isfile(self.path(name)))

    def exists(self, name: str) -> bool:
        """Whether a file or a folder is there."""
        return bool(self._files.exists(self.path(name)))

    def names(self, folder: str) -> list[str]:
        """Return all files in a folder and its folders, in order; partial ones are none."""
        root = self.path(folder)
        if not self._files.isdir(root):
            return []
        start = len(self._files._strip_protocol(self._root).rstrip("/")) + 1
        found = (path[start:] for path in self._files.find(root))
        return sorted(name for name in found if not posixpath.basename(name).startswith("."))
