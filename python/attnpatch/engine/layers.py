# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Which cross-attention layers a UNet has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attnpatch import _core
from attnpatch._core import Layer, LayerTable, layer_table, token_grid

__all__ = [
    "Layer",
    "LayerTable",
    "diffusers_layer_table",
    "layer_table",
    "make_layer_table",
    "token_grid",
]

Block = tuple[int, Sequence[int]]


def make_layer_table(
    input: Sequence[Block],
    middle: Block | None,
    output: Sequence[Block],
) -> LayerTable:
    """Make the table of any UNet of Stable Diffusion's structure.

    Parameters
    ----------
    input
        The input blocks in forward order. Each is its channels and, for every residual layer, the
        depth of the spatial transformer that follows it; 0 where there is no attention.
    middle
        Channels and one depth, or None.
    output
        The output blocks in forward order, deepest first; as many as input blocks.

    Examples
    --------
    SDXL:

    >>> make_layer_table(
    ...     input=[(320, (0, 0)), (640, (2, 2)), (1280, (10, 10))],
    ...     middle=(1280, (10,)),
    ...     output=[(1280, (10, 10, 10)), (640, (2, 2, 2)), (320, (0, 0, 0))],
    ... )
    <LayerTable SDXL: 70 layers in 11 spatial transformers>
    """

    def as_tuple(block: Block) -> tuple[int, list[int]]:
        return block[0], list(block[1])

    return _core.make_layer_table(
        [as_tuple(block) for block in input],
        None if middle is None else as_tuple(middle),
        [as_tuple(block) for block in output],
    )


def diffusers_layer_table(config: Mapping[str, Any]) -> LayerTable:
    """Make the table of a diffusers ``UNet2DConditionModel`` from its config.

    Blocks other than ``CrossAttnDownBlock2D``, ``UNetMidBlock2DCrossAttn`` and
    ``CrossAttnUpBlock2D`` count as having no cross-attention.

    Parameters
    ----------
    config
        ``unet.config``; read are block_out_channels, layers_per_block, down_block_types,
        mid_block_type, up_block_types, transformer_layers_per_block and
        reverse_transformer_layers_per_block.
    """
    channels = list(config["block_out_channels"])
    levels = len(channels)
    layers = _per_block(config.get("layers_per_block", 2), levels)
    depths = _per_block(config.get("transformer_layers_per_block", 1), levels)
    reverse = config.get("reverse_transformer_layers_per_block")
    output_depths = depths[::-1] if reverse is None else _per_block(reverse, levels)

    def block(
        block_type: str, wanted: str, size: int, count: int, depth: int | Sequence[int]
    ) -> Block:
        if block_type != wanted:
            return size, [0] * count
        return size, [depth] * count if isinstance(depth, int) else list(depth)

    middle = None
    if config.get("mid_block_type", "UNetMidBlock2DCrossAttn") == "UNetMidBlock2DCrossAttn":
        depth = depths[-1]
        middle = (channels[-1], [depth if isinstance(depth, int) else depth[0]])
    return make_layer_table(
        input=[
            block(block_type, "CrossAttnDownBlock2D", channels[i], layers[i], depths[i])
            for i, block_type in enumerate(config["down_block_types"])
        ],
        middle=middle,
        output=[
            block(
                block_type,
                "CrossAttnUpBlock2D",
                channels[-1 - i],
                layers[-1 - i] + 1,
                output_depths[i],
            )
            for i, block_type in enumerate(config["up_block_types"])
        ],
    )


def _per_block(value: Any, levels: int) -> list[Any]:
    return list(value) if isinstance(value, Sequence) else [value] * levels
