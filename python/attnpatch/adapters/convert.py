# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Write an adapter of any form in the published one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from attnpatch.adapters.checkpoints import (
    FORMAT,
    FORMAT_KEY,
    KIND_KEY,
    Checkpoint,
    Source,
    detect_layout,
    read_checkpoint,
)
from attnpatch.adapters.layout import Layout


def convert_adapter(
    source: Source,
    target: str | os.PathLike[str],
    *,
    kind: str | None = None,
    which: int | str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write an adapter as a safetensors file in the published form.

    Layers are numbered 1, 3, 5… in checkpoint order. Tensors keep their values and dtypes, LoRA
    tensors come along, and the metadata say what the adapter is, also where its tensors do not.

    Parameters
    ----------
    source : path or mapping
        Whatever `load_image_adapter` reads, but for repositories of the hub.
    target : path
        A `.safetensors` file. It is there whole or not at all.
    kind : str, optional
        What the adapter is, where its tensors leave that open.
    which : int or str, optional
        Which adapter, where the source holds several.
    overwrite : bool
        Replace a file that exists.

    Returns
    -------
    Path
        The target.

    Raises
    ------
    FileExistsError
        The target exists, and `overwrite` is not set.
    OSError
        The target's folder is none, or cannot be written.
    ValueError
        No adapter, an incomplete one or several; a target of another suffix.
    """
    path = Path(target)
    if path.suffix != ".safetensors":
        raise ValueError(f"target: expected a file .safetensors, got {path.name}")
    if path.is_dir() or (path.exists() and not overwrite):
        what = "a folder" if path.is_dir() else "a file that exists and is not to be overwritten"
        raise FileExistsError(f"target: expected a new file, got {what}: {path}")
    checkpoint = read_checkpoint(source, which=which)
    layout = detect_layout(checkpoint, kind, None)
    _write(_published_tensors(checkpoint), _metadata(layout), path)
    return path


def _published_tensors(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    tensors = {f"image_proj.{name}": tensor for name, tensor in checkpoint.image_proj.items()}
    for index, pair in enumerate(checkpoint.sites):
        for letter, weight in zip("kv", pair, strict=True):
            tensors[f"ip_adapter.{2 * index + 1}.to_{letter}_ip.weight"] = weight
    tensors |= {f"ip_adapter.{name}": tensor for name, tensor in checkpoint.lora.items()}
    # Tensors of torch's files may share memory, which safetensors do not.
    return {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}


def _metadata(layout: Layout) -> dict[str, str]:
    metadata = {"format": "pt", FORMAT_KEY: FORMAT, "attnpatch.family": layout.family}
    if "has this form too" not in layout.note:  # what was assumed may be said later
        metadata[KIND_KEY] = layout.kind
    return metadata


def _write(tensors: dict[str, torch.Tensor], metadata: dict[str, str], path: Path) -> None:
    """Write beside the target, then put the whole file in its place."""
    try:
        handle, partial = tempfile.mkstemp(".safetensors", f".{path.stem}-", path.parent)
    except OSError as error:
        raise OSError(
            f"target: expected a file in a folder that can be written, got {path}: {error.strerror}"
        ) from None
    os.close(handle)
    try:
        save_file(tensors, partial, metadata)
        _give_usual_permissions(partial)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def _give_usual_permissions(path: str) -> None:
    """Give a temporary file, which only its owner may read, the permissions of a new one."""
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(path, 0o666 & ~umask)
