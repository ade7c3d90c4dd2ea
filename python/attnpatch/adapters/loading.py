# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""From a checkpoint to an adapter."""

from __future__ import annotations

import logging
import os

import torch

from attnpatch.adapters.adapter import ImageAdapter
from attnpatch.adapters.checkpoints import Source, detect_layout, read_checkpoint
from attnpatch.adapters.inputs import common_dtype
from attnpatch.adapters.sources import Location

logger = logging.getLogger("attnpatch")


def load_image_adapter(
    source: Source,
    *,
    kind: str | None = None,
    shortcut: bool | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    which: int | str | None = None,
    subfolder: str | None = None,
    weight_name: str | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> ImageAdapter:
    """Read an image adapter of any kind; which one it is shows from its tensors' shapes.

    Parameters
    ----------
    source : path or mapping
        A `.safetensors`, `.bin` or `.pt` file as published, as training scripts leave it behind, or
        of a diffusers UNet saved with its adapter; the `.index.json` of one in shards; a folder
        with one such file in it; a repository of the Hugging Face hub ("h94/IP-Adapter", with
        `weight_name`); or a state dict of any of these. Code in files is never run.
    kind, shortcut : optional
        Settle what shapes leave open: FaceID plus with its `shortcut` (version 2) or without, and
        "instantid" or "portrait_unnorm". Otherwise the file's name, then the more likely.
    device, dtype : optional
        Default: the CPU, and what the file has. On CPUs half precision is stored, but computed with
        in fp32.
    which : optional
        Which adapter of a file that holds several: the number in diffusers' lists, or the name of
        the entry ("ema").
    subfolder, weight_name : optional
        Where in the folder or the repository the file is.
    revision, cache_dir, local_files_only, token : optional
        How the repository is reached, as in `huggingface_hub.hf_hub_download`.

    Returns
    -------
    ImageAdapter

    Raises
    ------
    ValueError
        No adapter, an incomplete one, one for another kind of model, or weights that are not
        finite; said before anything is built. Also a file or folder with several adapters.
    FileNotFoundError
        No such file, here or on the hub.
    ImportError
        A repository is named, but huggingface_hub is not installed.
    """
    location = Location(subfolder, weight_name, revision, cache_dir, local_files_only, token)
    checkpoint = read_checkpoint(source, which=which, location=location)
    layout = detect_layout(checkpoint, kind, shortcut)
    if layout.note.startswith("assumed"):
        logger.warning(
            "%s: taken as %s (%s)", checkpoint.name or "state dict", layout.kind, layout.note
        )
    tensors = [*checkpoint.image_proj.values(), *(t for pair in checkpoint.sites for t in pair)]
    adapter = ImageAdapter(checkpoint.image_proj, checkpoint.sites, checkpoint.lora, layout)
    wanted = dtype or common_dtype(tensors)
    mixed = any(tensor.dtype != wanted for tensor in tensors)
    if mixed or (device is not None and torch.device(device) != adapter.device):
        return adapter.to(device, wanted)
    return adapter
