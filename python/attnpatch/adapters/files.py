# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Reading adapter checkpoints: which tensors a file holds, in whatever form it comes."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file

from attnpatch.adapters.layout import Layout, detect

Source = str | os.PathLike[str] | Mapping[str, object]
Tensors = dict[str, torch.Tensor]

# Names of the two groups: as published, and as the original training scripts save them.
_GROUPS = {
    "image_proj": "image_proj",
    "image_proj_model": "image_proj",
    "ip_adapter": "ip_adapter",
    "adapter_modules": "ip_adapter",
}
_FOREIGN = {
    "double_blocks.": "an adapter for Flux",
    "id_adapter": "a PuLID checkpoint",
    "id_encoder": "a PhotoMaker checkpoint",
    "model.diffusion_model.": "a whole Stable Diffusion checkpoint",
    "down_blocks.": "a diffusers UNet or ControlNet",
    "lora_unet_": "a LoRA",
    "vision_model.": "a CLIP vision encoder",
}
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
_SITE = re.compile(r"(\d+)\.to_([kv])_ip\.weight")
_LORA = re.compile(r"\d+\.to_(q|k|v|out)_lora\.(up|down)\.weight")


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of an adapter: `sites` are pairs of weights of keys and values, in order."""

    image_proj: Tensors
    sites: list[tuple[torch.Tensor, torch.Tensor]]
    lora: Tensors
    name: str


def read_checkpoint(source: Source, *, shapes_only: bool = False) -> Checkpoint:
    """Read an adapter's tensors.

    Parameters
    ----------
    source : path or mapping
        A `.safetensors`, `.bin` or `.pt` file, told apart by content, or a state dict: nested
        (`image_proj` and `ip_adapter`) or flat (`image_proj.NAME`).
    shapes_only : bool
        Give tensors without data, on torch's meta device.

    Raises
    ------
    ValueError
        The file is not readable, holds code, or is no adapter; the message says which.
    """
    if isinstance(source, Mapping):
        name, content = "state dict", source
    elif isinstance(source, str | os.PathLike):
        path = Path(source)
        name, content = path.name, read_file(path, shapes_only=shapes_only)
    else:
        raise TypeError(f"source: expected a path or a state dict; given {type(source).__name__}")
    if not isinstance(content, Mapping):
        raise ValueError(f"{name}: expected a dict of tensors, found {type(content).__name__}")
    try:
        image_proj, ip_adapter = _split_groups(content)
        sites, lora = _split_sites(ip_adapter)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return Checkpoint(image_proj, sites, lora, "" if isinstance(source, Mapping) else name)


def detect_layout(checkpoint: Checkpoint, kind: str | None, shortcut: bool | None) -> Layout:
    """Tell what adapter a checkpoint holds; errors name the file."""
    try:
        return detect(
            {name: tuple(tensor.shape) for name, tensor in checkpoint.image_proj.items()},
            [(tuple(key.shape), tuple(value.shape)) for key, value in checkpoint.sites],
            lora=bool(checkpoint.lora),
            kind=kind,
            shortcut=shortcut,
            name=checkpoint.name,
        )
    except ValueError as error:
        raise ValueError(f"{checkpoint.name or 'state dict'}: {error}") from None


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


def _read_safetensors(path: Path, shapes_only: bool) -> Mapping[str, object]:
    try:
        if not shapes_only:
            return load_file(path)
        with safetensors.safe_open(path, framework="pt"):  # checks the header and the size
            pass
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path.name}: not a whole safetensors file ({path.stat().st_size} bytes), perhaps an "
            f"incomplete download: {error}"
        ) from None
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {
        name: torch.empty(
            entry["shape"], dtype=_DTYPES.get(entry["dtype"], torch.uint8), device="meta"
        )
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _read_torch(path: Path, shapes_only: bool) -> object:
    where = "meta" if shapes_only else "cpu"
    try:
        with path.open("rb") as file:  # not the path: torch goes by its suffix
            content = torch.load(file, map_location=where, weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[-1] if str(error) else "broken pickle"
        found = re.search(r"Unsupported (?:global|class)[^\n]*", str(error))
        reason = found[0] if found else reason
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


def _split_groups(content: Mapping[str, object]) -> tuple[Tensors, Tensors]:
    if len(content) == 1 and isinstance(inner := content.get("state_dict"), Mapping):
        content = inner
    groups: dict[str, Tensors] = {"image_proj": {}, "ip_adapter": {}}
    strange = []
    for key, value in content.items():
        group, _, rest = key.partition(".")
        if group in _GROUPS and isinstance(value, Mapping) and not rest:
            entries = dict(value)
        elif group in _GROUPS and rest:
            entries = {rest: value}
        elif group == "unet":  # training checkpoints carry the frozen UNet along
            continue
        else:
            strange.append(key)
            continue
        for name, tensor in entries.items():
            if not isinstance(tensor, torch.Tensor):
                raise ValueError(
                    f"{group}.{name}: expected a tensor, found {type(tensor).__name__}"
                )
            groups[_GROUPS[group]][name] = tensor.detach()
    missing = [name for name, tensors in groups.items() if not tensors]
    if missing:
        for mark, what in _FOREIGN.items():
            if any(key.startswith(mark) for key in content):
                raise ValueError(f"this is {what}, not an image adapter")
        found = ", ".join(list(content)[:5]) or "nothing"
        raise ValueError(
            f"not an image adapter: no tensors of {' and '.join(missing)}; it holds {found}"
        )
    if strange:
        raise ValueError(f"unexpected beside image_proj and ip_adapter: {', '.join(strange[:5])}")
    return groups["image_proj"], groups["ip_adapter"]


def _split_sites(tensors: Tensors) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], Tensors]:
    """Pairs of weights of keys and values by their number, and the LoRA tensors."""
    found: dict[int, Tensors] = {}
    lora: Tensors = {}
    strange = []
    for name, tensor in tensors.items():
        if site := _SITE.fullmatch(name):
            found.setdefault(int(site[1]), {})[site[2]] = tensor
        elif _LORA.fullmatch(name):
            lora[name] = tensor
        else:
            strange.append(name)
    if strange:
        raise ValueError(f"ip_adapter: unexpected {', '.join(strange[:5])}")
    if not found:
        raise ValueError("ip_adapter: no weights of keys and values ({number}.to_k_ip.weight)")
    numbers = sorted(found)
    step = min((b - a for a, b in itertools.pairwise(numbers)), default=numbers[0] + 1)
    wanted = set(range(numbers[0] % step, numbers[-1] + 1, step))
    missing = [
        f"{n}.to_{letter}_ip.weight"
        for n in sorted(wanted | set(numbers))
        for letter in "kv"
        if letter not in found.get(n, {})
    ]
    if missing:
        raise ValueError(f"ip_adapter: missing {', '.join(missing[:5])}")
    sites = [(found[n]["k"], found[n]["v"]) for n in numbers]
    context = sites[0][0].shape[-1] if sites[0][0].dim() == 2 else -1
    for n, (key, value) in zip(numbers, sites, strict=True):
        if key.dim() != 2 or key.shape != value.shape or key.shape[1] != context:
            raise ValueError(
                f"ip_adapter: {n}.to_k_ip.weight is {tuple(key.shape)} and {n}.to_v_ip.weight "
                f"{tuple(value.shape)}; both must be (channels, {max(context, 0) or 'context'})"
            )
    return sites, lora
