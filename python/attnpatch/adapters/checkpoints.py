# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of adapters: their tensors, in whatever form they come."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from attnpatch.adapters.assembly import Pair, assemble_adapters
from attnpatch.adapters.files import read_file, read_file_metadata, read_index, read_shards
from attnpatch.adapters.layout import Layout, detect
from attnpatch.adapters.sources import Location, check_shard, find_file
from attnpatch.adapters.state_dicts import NoAdapterError, Tensors, list_contents, sort_tensors

Source = str | os.PathLike[str] | Mapping[str, object]

# Metadata of the files that `convert_adapter` writes.
FORMAT_KEY, FORMAT = "attnpatch.format", "image_adapter"
KIND_KEY = "attnpatch.kind"


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of an adapter.

    Parameters
    ----------
    image_proj : dict of str to torch.Tensor
        The projection, by published names.
    sites : list of (torch.Tensor, torch.Tensor)
        Weights of keys and of values for every layer, in checkpoint order.
    lora : dict of str to torch.Tensor
        LoRA tensors, by number of the UNet's attention layer.
    name : str
        Of the file; empty for a state dict.
    form : str
        In which form the tensors came.
    choice : str
        Its name among several adapters of one file.
    kind : str or None
        As the file's metadata say.
    """

    image_proj: Tensors
    sites: list[Pair]
    lora: Tensors
    name: str
    form: str = ""
    choice: str = ""
    kind: str | None = None


def read_checkpoint(
    source: Source,
    *,
    shapes_only: bool = False,
    which: int | str | None = None,
    location: Location | None = None,
) -> Checkpoint:
    """Read an adapter's tensors.

    Parameters
    ----------
    source : path or mapping
        A file, told by its content; the index of a checkpoint in shards; a folder with one adapter;
        with `location` the name of a repository of the hub; or a state dict, nested, flat, or
        wrapped.
    shapes_only : bool
        Give tensors without data, on torch's meta device.
    which : int or str, optional
        Which adapter, where the file holds several.
    location : Location, optional
        Where in a folder or repository.

    Raises
    ------
    ValueError
        The file is not readable, holds code, is no adapter or not a whole one, or several; the
        message says which.
    """
    checkpoints = read_checkpoints(source, shapes_only=shapes_only, location=location)
    choices = [checkpoint.choice for checkpoint in checkpoints]
    if which is None and len(checkpoints) == 1:
        return checkpoints[0]
    if which is None:
        raise ValueError(
            f"{checkpoints[0].name or 'state dict'}: it holds {len(checkpoints)} image adapters; "
            f"choose one with which: {_quoted(choices)}"
        )
    by_choice = dict(zip(choices, checkpoints, strict=True))
    if len(checkpoints) == 1:
        by_choice["0"] = checkpoints[0]
    if str(which) not in by_choice:
        known = [choice for choice in by_choice if choice]
        raise ValueError(f"which: expected one of {_quoted(known)}, got {which!r}")
    return by_choice[str(which)]


def read_checkpoints(
    source: Source, *, shapes_only: bool = False, location: Location | None = None
) -> list[Checkpoint]:
    """Read all adapters of a source; see `read_checkpoint`."""
    if isinstance(source, Mapping):
        if location is not None:
            location.check_unused("a state dict", "subfolder", "weight_name", "revision")
        return _assemble(source, "")
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"source: expected a path or a state dict, got {type(source).__name__}")

    def check(path: Path) -> None:
        _read_path(path, shapes_only=True)

    return _read_path(find_file(source, location, check), shapes_only)


def detect_layout(checkpoint: Checkpoint, kind: str | None, shortcut: bool | None) -> Layout:
    """Tell what adapter a checkpoint holds; errors name the file."""

    def look(kind: str | None) -> Layout:
        return detect(
            {name: tuple(tensor.shape) for name, tensor in checkpoint.image_proj.items()},
            [(tuple(key.shape), tuple(value.shape)) for key, value in checkpoint.sites],
            lora=bool(checkpoint.lora),
            kind=kind,
            shortcut=shortcut,
            name=checkpoint.name,
        )

    try:
        if kind is None and shortcut is None and checkpoint.kind is not None:
            layout = look(checkpoint.kind)
            note = "by the file's metadata" if look(None).note else ""
            return replace(layout, note=note)
        return look(kind)
    except ValueError as error:
        raise ValueError(f"{checkpoint.name or 'state dict'}: {error}") from None


def _read_path(path: Path, shapes_only: bool) -> list[Checkpoint]:
    check_shard(path)
    if path.suffix == ".json":
        content: object = read_shards(path, shapes_only=shapes_only)
        shards, metadata = len(set(read_index(path).values())), {}
    else:
        content = read_file(path, shapes_only=shapes_only)
        shards, metadata = 1, read_file_metadata(path)
    if not isinstance(content, Mapping):
        raise NoAdapterError(
            f"{path.name}: expected a dict of tensors, found {type(content).__name__}"
        )
    kind = metadata.get(KIND_KEY) if metadata.get(FORMAT_KEY) == FORMAT else None
    in_shards = f", in {shards} shards" if shards > 1 else ""
    return [
        replace(checkpoint, form=checkpoint.form + in_shards, kind=kind)
        for checkpoint in _assemble(content, path.name)
    ]


def _assemble(content: Mapping[str, object], name: str) -> list[Checkpoint]:
    try:
        adapters = assemble_adapters(sort_tensors(content), list_contents(content))
    except ValueError as error:
        raise type(error)(f"{name or 'state dict'}: {error}") from None
    return [Checkpoint(a.image_proj, a.sites, a.lora, name, a.form, a.choice) for a in adapters]


def _quoted(choices: list[str]) -> str:
    return ", ".join(repr(choice) for choice in choices)
