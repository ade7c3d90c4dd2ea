# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A text about an adapter's file, without building anything."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import torch

from attnpatch.adapters.files import detect_layout, read_checkpoint

_STRUCTURES = {
    "linear": "linear projection",
    "token mlp": "MLP on every token",
    "mlp": "MLP",
    "resampler": "Resampler",
    "face perceiver": "MLP, then a perceiver on the hidden states",
}
_MODELS = {"sd1": "SD1.x", "sd2": "SD2.x", "sdxl": "SDXL", "custom": "custom UNet"}


def describe(path: str | os.PathLike[str]) -> str:
    """Say what adapter a file holds.

    Only shapes are read, so that large files take no longer than small ones.

    Parameters
    ----------
    path : path
        A `.safetensors`, `.bin` or `.pt` file.

    Returns
    -------
    str
        Lines of text.

    Raises
    ------
    ValueError
        No adapter, or an incomplete one; the message says why.
    """
    path = Path(path)
    checkpoint = read_checkpoint(path, shapes_only=True)
    layout = detect_layout(checkpoint, None, None)
    network = _STRUCTURES[layout.structure]
    if layout.depth:
        network += f": width {layout.dim}, depth {layout.depth}, {layout.heads} heads of 64"
    sites = [tensor for pair in checkpoint.sites for tensor in pair]
    lora = checkpoint.lora.values()
    rows = [
        ("kind", f"{layout.kind} ({layout.note})" if layout.note else layout.kind),
        ("model", f"{_MODELS[layout.family]}, context {layout.context_dim}"),
        ("layers", f"{len(layout.channels)}, {_weigh(sites)}"),
        ("network", f"{network}, {_weigh(checkpoint.image_proj.values())}"),
        ("takes", " and ".join(map(str, layout.takes))),
        ("tokens", f"{layout.tokens} a picture"),
        ("lora", f"{len(checkpoint.lora)} tensors, {_weigh(lora)}" if lora else "none"),
    ]
    return "\n".join([path.name, *(f"  {name:<8} {text}" for name, text in rows)])


def _weigh(tensors: Iterable[torch.Tensor]) -> str:
    tensors = list(tensors)
    values = sum(tensor.numel() for tensor in tensors)
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})
    return f"{values / 1e6:.1f} M values, {size / 1e6:.1f} MB {' and '.join(dtypes)}"
