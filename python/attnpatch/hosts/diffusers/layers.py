# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Read the table of cross-attention layers off a UNet that uses diffusers' names of blocks."""

from __future__ import annotations

from typing import Any

from attnpatch.patches import LayerTable, make_layer_table

_BlockShape = tuple[int, list[int]]  # channels, transformer depths


def read_layer_table(unet: Any) -> LayerTable:
    """Return the cross-attention layers of `unet` in checkpoint order: down, up, middle.

    Parameters
    ----------
    unet
        A module with ``down_blocks``, ``mid_block`` and ``up_blocks``: SD1.x, SD2.x, SDXL and
        others of that structure, of any width.

    Returns
    -------
    LayerTable
        Equal to ``layer_table("sd1")`` or ``layer_table("sdxl")`` for UNets of those shapes.

    Raises
    ------
    ValueError
        If its blocks are not arranged as in Stable Diffusion, or none attends to a context.
    """
    middle = None if unet.mid_block is None else _shape(unet.mid_block)
    table = make_layer_table(
        input=[_shape(block) for block in unet.down_blocks],
        middle=middle if middle is not None and any(middle[1]) else None,
        output=[_shape(block) for block in unet.up_blocks],
    )
    if len(table) == 0:
        raise ValueError("model: none of its UNet's layers attends to a context (a text, an image)")
    return table.with_heads([self_attention(unet, layer.name).heads for layer in table])


def cross_attention(unet: Any, name: str) -> Any:
    """Return the `Attention` module of the layer that the table names `name`."""
    return unet.get_submodule(name).attn2


def self_attention(unet: Any, name: str) -> Any:
    """Return the `Attention` module of self-attention in the block that the table names `name`."""
    return unet.get_submodule(name).attn1


def _shape(block: Any) -> _BlockShape:
    attentions = getattr(block, "attentions", None) or []
    # The middle block has one residual layer more than attentions; it leads the others.
    count = len(attentions) or len(getattr(block, "resnets", ()))
    depths = [_depth(attention) for attention in attentions] or [0] * count
    return _channels(block, attentions), depths


def _depth(attention: Any) -> int:
    """How many transformer blocks with cross-attention a spatial transformer has."""
    if hasattr(attention, "temporal_transformer_blocks"):
        raise ValueError(
            "model: expected layers that attend within pictures, got "
            f"{type(attention).__name__}, whose layers attend along time as well"
        )
    blocks = getattr(attention, "transformer_blocks", None) or []
    return sum(_attends_to_context(block) for block in blocks)


def _attends_to_context(block: Any) -> bool:
    layer = getattr(block, "attn2", None)
    return layer is not None and layer.is_cross_attention


def _channels(block: Any, attentions: Any) -> int:
    for attention in attentions:
        for transformer in getattr(attention, "transformer_blocks", None) or []:
            if _attends_to_context(transformer):
                return int(transformer.attn2.inner_dim)
    try:
        return int(block.resnets[-1].out_channels)
    except AttributeError:
        raise ValueError(
            "model: expected a UNet whose blocks have residual layers and transformers as Stable "
            f"Diffusion's, got blocks of {type(block).__name__}"
        ) from None
