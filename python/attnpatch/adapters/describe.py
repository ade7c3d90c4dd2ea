# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A text about the file of an adapter or of image tokens, without building anything."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import torch

from attnpatch.adapters.checkpoints import Checkpoint, detect_layout, read_checkpoints
from attnpatch.adapters.embeds_files import read_metadata
from attnpatch.adapters.layout import Layout

STRUCTURES = {
    "linear": "linear projection",
    "token mlp": "MLP on every token",
    "mlp": "MLP",
    "resampler": "Resampler",
    "face perceiver": "MLP, then a perceiver on the hidden states",
}
MODELS = {
    "sd1": "SD1.x",
    "sd2": "SD2.x",
    "sdxl": "SDXL",
    "kolors": "Kolors",
    "custom": "custom UNet",
}


def describe(path: str | os.PathLike[str]) -> str:
    """Say what adapter, or which image tokens, a file holds.

    Only shapes are read, so that large files take no longer than small ones.

    Parameters
    ----------
    path : path
        A file of one or several adapters, the index of one in shards, a folder with one such file,
        or a file of `ImageEmbeds.save`.

    Returns
    -------
    str
        Lines of text.

    Raises
    ------
    ValueError
        Neither, or an incomplete adapter; the message says why.
    """
    path = Path(path)
    metadata = read_metadata(path) if path.is_file() else {}
    if metadata:
        rows = [(key.replace("_", " "), metadata[key]) for key in sorted(metadata)]
        return _lay_out(f"{path.name}: image tokens", rows)
    return "\n".join(map(_describe_adapter, read_checkpoints(path, shapes_only=True)))


def _describe_adapter(checkpoint: Checkpoint) -> str:
    layout = detect_layout(checkpoint, None, None)
    network = STRUCTURES[layout.structure]
    if layout.depth:
        network += f": width {layout.dim}, depth {layout.depth}, {layout.heads} heads of 64"
    sites = [tensor for pair in checkpoint.sites for tensor in pair]
    lora = checkpoint.lora.values()
    rows = [
        ("kind", f"{layout.kind} ({layout.note})" if layout.note else layout.kind),
        ("form", checkpoint.form),
        ("model", f"{MODELS[layout.family]}, context {layout.context_dim}"),
        ("layers", f"{len(layout.channels)}, {_weigh(sites)}"),
        ("network", f"{network}, {_weigh(checkpoint.image_proj.values())}"),
        ("takes", " and ".join(map(str, layout.takes))),
        ("tokens", f"{layout.tokens} a picture{_through(layout)}"),
        ("lora", f"{len(checkpoint.lora)} tensors, {_weigh(lora)}" if lora else "none"),
    ]
    choice = f" ({checkpoint.choice})" if checkpoint.choice else ""
    return _lay_out(f"{checkpoint.name}{choice}", rows)


def _through(layout: Layout) -> str:
    if layout.token_dim == layout.context_dim:
        return ""
    return f", of {layout.token_dim} values before the model's own projection (encoder_hid_proj)"


def _lay_out(title: str, rows: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join([title, *(f"  {name:<{width}} {text}" for name, text in rows)])


def _weigh(tensors: Iterable[torch.Tensor]) -> str:
    tensors = list(tensors)
    values = sum(tensor.numel() for tensor in tensors)
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})
    return f"{values / 1e6:.1f} M values, {size / 1e6:.1f} MB {' and '.join(dtypes)}"
