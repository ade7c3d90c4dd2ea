# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What files hold: safetensors, torch's own, and checkpoints in shards. Code is never run."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import safetensors
import torch

from attnpatch.adapters.state_dicts import Tensors

INDEX_SUFFIX = ".index.json"
SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.\w+)")
# Tensors of a model that lies beside the adapter, of which only the shapes are of use.
_OF_ADAPTER = re.compile(r"_ip\.|lora|hid_proj|image_proj|adapter")
_OF_MODEL = re.compile(
    r"(^|\.)(unet|vae|text_encoder\w*|image_encoder|(down|up)_blocks|mid_block)\."
)
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def read_file(path: Path, *, shapes_only: bool = False) -> object:
    """Read what a safetensors or a torch file holds, without ever running code from it."""
    with path.open("rb") as file:
        head = file.read(64)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 30:
        return _read_safetensors(path, shapes_only)
    if head[:2] == b"PK" or head[:1] == b"\x80":
        return _read_torch(path, shapes_only)
    size = path.stat().st_size
    what = "no safetensors and no torch file"
    if head.startswith(b"version https://git-lfs"):
        what = "a Git LFS pointer; the file itself was not downloaded"
    elif head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        what = "a web page, saved in place of the file"
    elif size == 0:
        what = "empty"
    raise ValueError(f"{path.name}: it is {what} ({size} bytes)")


def read_index(path: Path) -> dict[str, str]:
    """Read which file holds which tensor, from the index of a checkpoint in shards.

    Raises
    ------
    ValueError
        No such index, or one that points out of its folder.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(f"{path.name}: no index of a checkpoint in shards: not JSON") from None
    files = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(files, dict) or not files:
        raise ValueError(f"{path.name}: no index of a checkpoint in shards: it has no weight_map")
    for tensor, file in files.items():
        if not isinstance(file, str) or PurePath(file).name != file or "\\" in file:
            raise ValueError(f"{path.name}: {tensor}: expected a file's name, got {file!r}")
    return files


def read_shards(path: Path, *, shapes_only: bool = False) -> Tensors:
    """Read all shards that an index names.

    Raises
    ------
    ValueError
        A shard, or a tensor that the index names, is missing.
    """
    files = read_index(path)
    names = sorted(set(files.values()))
    absent = [name for name in names if not (path.parent / name).is_file()]
    if absent:
        raise ValueError(
            f"{path.name}: {len(absent)} of its {len(names)} shards are missing: "
            f"{', '.join(absent[:5])}"
        )
    tensors: Tensors = {}
    for name in names:
        content = read_file(path.parent / name, shapes_only=shapes_only)
        if not isinstance(content, Mapping):
            raise ValueError(f"{name}: expected a dict of tensors, found {type(content).__name__}")
        lacking = [
            tensor for tensor, file in files.items() if file == name if tensor not in content
        ]
        if lacking:
            raise ValueError(
                f"{name}: {len(lacking)} tensors that {path.name} names are missing: "
                f"{', '.join(lacking[:5])}"
            )
        tensors.update(content)
    return tensors


def read_file_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a safetensors file; of any other file none."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except safetensors.SafetensorError:
        return {}


def _read_safetensors(path: Path, shapes_only: bool) -> Mapping[str, object]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length)
    tensors: dict[str, object] = {}
    try:
        with safetensors.safe_open(path, framework="pt") as file:  # checks header and size
            entries = json.loads(header)
            for name in file.keys():  # noqa: SIM118  (no mapping)
                dtype, of_model = entries[name]["dtype"], _is_of_model(name)
                if dtype not in _DTYPES and not of_model:
                    raise ValueError(
                        f"{path.name}: {name}: expected a tensor of floats, found {dtype}"
                    )
                tensors[name] = (
                    _describe_tensor(entries[name])
                    if shapes_only or of_model
                    else file.get_tensor(name)
                )
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path.name}: not a whole safetensors file ({path.stat().st_size} bytes), perhaps an "
            f"incomplete download: {error}"
        ) from None
    return tensors


def _is_of_model(name: str) -> bool:
    return bool(_OF_MODEL.search(name)) and not _OF_ADAPTER.search(name)


def _describe_tensor(entry: Mapping[str, Any]) -> torch.Tensor:
    # Of a model's tensor in another dtype nothing but the shape is asked.
    dtype = _DTYPES.get(entry["dtype"], torch.uint8)
    return torch.empty(entry["shape"], dtype=dtype, device="meta")


def _read_torch(path: Path, shapes_only: bool) -> object:
    where = "meta" if shapes_only else "cpu"
    try:
        with path.open("rb") as file:  # not the path: torch goes by its suffix
            content = torch.load(file, map_location=where, weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[-1] if str(error) else "broken pickle"
        match = re.search(r"Unsupported (?:global|class)[^\n]*", str(error))
        reason = match[0] if match else reason
        raise ValueError(
            f"{path.name}: refused, since it holds more than tensors, or is damaged. Code from "
            f"files is never run. ({reason})"
        ) from None
    except (RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path.name}: not a whole torch file ({path.stat().st_size} bytes), perhaps an "
            f"incomplete download: {reason}"
        ) from None
    return content
