# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""From a checkpoint to an adapter."""

from __future__ import annotations

import logging

import torch

from attnpatch.adapters.adapter import ImageAdapter
from attnpatch.adapters.files import Source, detect_layout, read_checkpoint
from attnpatch.adapters.inputs import common_dtype

logger = logging.getLogger("attnpatch")


def load_image_adapter(
    source: Source,
    *,
    kind: str | None = None,
    shortcut: bool | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> ImageAdapter:
    """Read an image adapter of any kind; which one it is shows from its tensors' shapes.

    Parameters
    ----------
    source : path or mapping
        A `.safetensors`, `.bin` or `.pt` file, or a state dict: nested (`image_proj`,
        `ip_adapter`) or flat (`image_proj.NAME`). Code in files is never run.
    kind, shortcut : optional
        Settle what shapes leave open: FaceID plus with its `shortcut` (version 2) or without, and
        "instantid" or "portrait_unnorm". Otherwise the file's name, then the more likely.
    device, dtype : optional
        Default: the CPU, and what the file has. On CPUs half precision is stored, but computed with
        in fp32.

    Returns
    -------
    ImageAdapter

    Raises
    ------
    ValueError
        No adapter, an incomplete one, or one for another kind of model; said before anything is
        built.
    """
    checkpoint = read_checkpoint(source)
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
