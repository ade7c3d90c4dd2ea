# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Read the table of attention layers off a UNet that uses Stable Diffusion's own names of blocks.

ComfyUI, Fooocus and their relatives hold such UNets: ``input_blocks``, ``middle_block`` and
``output_blocks``, each block a list of modules of which one may have ``transformer_blocks``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from attnpatch.engine import LayerTable, make_layer_table

_BlockShape = tuple[int, int]  # channels, transformer depth (0 and 0: no attention)


def has_sd_names(unet: object) -> bool:
    """Whether `unet` names its blocks as Stable Diffusion's original code does."""
    return all(hasattr(unet, name) for name in ("input_blocks", "middle_block", "output_blocks"))


def token_projection(unet: Any) -> tuple[Tensor, Tensor | None] | None:
    """Return weight and bias of what a UNet does to its text first, as Kolors'; None: nothing."""
    linear = getattr(unet, "encoder_hid_proj", None)
    weight = getattr(linear, "weight", None)
    return None if weight is None else (weight.detach(), _detached(getattr(linear, "bias", None)))


def _detached(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()


def read_layer_table(unet: Any) -> LayerTable:
    """Return the cross-attention layers of `unet` in checkpoint order.

    Parameters
    ----------
    unet
        A module with ``input_blocks``, ``middle_block`` and ``output_blocks``: SD1.x, SD2.x, SDXL
        and cut-down relatives of them, of any width.

    Raises
    ------
    ValueError
        If its blocks are not arranged as in Stable Diffusion.
    """
    inputs = [_shape(block) for block in unet.input_blocks]
    outputs = [_shape(block) for block in unet.output_blocks]
    counts = _blocks_per_level(unet, len(inputs))
    if len(outputs) != len(inputs):
        raise ValueError(
            f"model: its UNet has {len(inputs)} input blocks and {len(outputs)} output blocks, "
            "expected as many of both"
        )
    down, up, first, last = [], [], 1, len(outputs)
    for count in counts:
        down.append(_level(inputs[first : first + count]))
        up.insert(0, _level(outputs[last - count - 1 : last]))
        first, last = first + count + 1, last - count - 1
    channels, depth = _shape(unet.middle_block)
    middle = (channels, [depth]) if depth else None
    return _with_heads(make_layer_table(input=down, middle=middle, output=up), unet)


def _with_heads(table: LayerTable, unet: Any) -> LayerTable:
    """Add how many heads self-attention has, where the modules say so."""
    blocks = {
        "input": unet.input_blocks,
        "middle": [unet.middle_block],
        "output": unet.output_blocks,
    }
    heads = []
    for layer in table:
        transformer = _transformers(blocks[layer.block][layer.number])[layer.transformer]
        heads.append(getattr(getattr(transformer, "attn1", None), "heads", 0))
    return table.with_heads(heads) if heads and all(heads) else table


def context_channels(unet: Any, table: LayerTable) -> int | None:
    """Return how many channels the text has that the layers are given; None: not known."""
    blocks = {
        "input": getattr(unet, "input_blocks", ()),
        "middle": [getattr(unet, "middle_block", ())],
        "output": getattr(unet, "output_blocks", ()),
    }
    for layer in table:
        if len(blocks[layer.block]) <= layer.number:
            return None
        transformers = _transformers(blocks[layer.block][layer.number])
        attention = getattr(next(iter(transformers), None), "attn2", None)
        channels = getattr(getattr(attention, "to_k", None), "in_features", None)
        return channels if isinstance(channels, int) else None
    return None


def _blocks_per_level(unet: Any, blocks: int) -> list[int]:
    """Return how many residual blocks each level of the downward path has."""
    declared = getattr(unet, "num_res_blocks", 2)
    per_level = declared if isinstance(declared, int) else 2
    counts = (
        [per_level] * (blocks // (per_level + 1)) if isinstance(declared, int) else list(declared)
    )
    # One block more a level: the first convolution, then what halves the grid.
    if sum(counts) + len(counts) != blocks:
        raise ValueError(
            f"model: its UNet has {blocks} input blocks, which {counts} residual blocks a level "
            "do not explain; expected the structure of Stable Diffusion"
        )
    return counts


def _shape(block: Iterable[Any] | None) -> _BlockShape:
    transformers = _transformers(block)
    return (_channels(transformers[0]), len(transformers)) if len(transformers) else (0, 0)


def _transformers(block: Iterable[Any] | None) -> Sequence[Any]:
    """Return the transformer blocks of a block's spatial transformer; None: there is no block."""
    found = (m.transformer_blocks for m in block or () if hasattr(m, "transformer_blocks"))
    return next(found, ())


def _channels(transformer: Any) -> int:
    """Return the width of a transformer block; a LayerNorm tells, whatever holds the weights."""
    return int(transformer.norm2.normalized_shape[0])


def _level(shapes: list[_BlockShape]) -> tuple[int, list[int]]:
    # A level without attention has no width to tell, and none that matters.
    return max(1, *(channels for channels, _ in shapes)), [depth for _, depth in shapes]
