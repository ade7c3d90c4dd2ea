# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Read the table of cross-attention layers off a UNet that uses diffusers' names of blocks."""

from __future__ import annotations

import re
from typing import Any

from attnpatch.engine import LayerTable, make_layer_table

_BlockShape = tuple[int, list[int]]  # channels, transformer depths


def read_layer_table(unet: Any) -> LayerTable:
    """Return the cross-attention layers of `unet` in checkpoint order: down, up, middle.

    Parameters
    ----------
    unet
        A module with ``down_blocks``, ``mid_block`` and ``up_blocks``: SD1.x, SD2.x, SDXL and
        others of that structure, of any width; videos' too.

    Returns
    -------
    LayerTable
        Equal to ``layer_table("sd1")`` or ``layer_table("sdxl")`` for UNets of those shapes.

    Raises
    ------
    TypeError
        If it is of another structure, naming its class.
    ValueError
        If its blocks are not arranged as in Stable Diffusion, or none attends to a context.
    """
    _check_structure(unet)
    middle = None if unet.mid_block is None else _shape(unet.mid_block)
    table = make_layer_table(
        input=[_shape(block) for block in unet.down_blocks],
        middle=middle if middle is not None and any(middle[1]) else None,
        output=[_shape(block) for block in unet.up_blocks],
    )
    if len(table) == 0:
        raise ValueError("model: none of its UNet's layers attends to a context (a text, an image)")
    return table.with_heads([_self_heads(unet.get_submodule(layer.name)) for layer in table])


def _check_structure(unet: Any) -> None:
    """Raise TypeError where a UNet attends to its context elsewhere than the table will say."""
    blocks = [("mid_block", unet.mid_block)] if unet.mid_block is not None else []
    for path in ("down_blocks", "up_blocks"):
        blocks += [(f"{path}.{i}", block) for i, block in enumerate(getattr(unet, path))]
    for path, block in blocks:
        _check_block(type(unet).__name__, path, block)


def _check_block(unet: str, path: str, block: Any) -> None:
    resnets, attentions = (getattr(block, name, None) or [] for name in ("resnets", "attentions"))
    wrong = "" if len(resnets) else f"none in its {path}, of class {type(block).__name__}"
    others = len(resnets) - (path == "mid_block")
    if any(map(_depth, attentions)) and len(attentions) != others:
        wrong = f"{len(attentions)} for the {others} in its {path}"
    for name, module in block.named_modules():
        if hasattr(module, "temporal_transformer_blocks"):
            wrong = f"attention along time at {path}.{name}"
            break
        # Wrappers of single blocks stand in the names.
        ours = _ATTENTION.fullmatch(name.replace("._fsdp_wrapped_module", "")) is not None
        if getattr(module, "is_cross_attention", False) and not ours:
            wrong = f"attention to a context at {path}.{name}"
        elif ours and getattr(module, "inner_kv_dim", None) != getattr(module, "inner_dim", None):
            wrong = f"fewer heads for keys than for queries at {path}.{name}"
    if wrong:
        raise TypeError(
            "model: expected a UNet of Stable Diffusion's structure, which attends to its context "
            f"in one spatial transformer after each residual layer; got {unet} with {wrong}"
        )


# Of a block, attention to a context that the table has, or that stands where others attend to
# themselves (`only_cross_attention`).
_ATTENTION = re.compile(r"attentions\.\d+\.transformer_blocks\.\d+\.attn[12]")


def _self_heads(block: Any) -> int:
    """How many heads the self-attention of a transformer block has; 0: there is none."""
    layer = getattr(block, "attn1", None)
    return 0 if layer is None or layer.is_cross_attention else int(layer.heads)


def spatial_transformers(unet: Any, table: LayerTable) -> dict[int, Any]:
    """Return the spatial transformers of a UNet by the number that its layers have for them."""
    names = {layer.spatial: layer.name.rpartition(".transformer_blocks.")[0] for layer in table}
    return {spatial: unet.get_submodule(name) for spatial, name in names.items()}


def _shape(block: Any) -> _BlockShape:
    attentions = getattr(block, "attentions", None) or []
    # The middle block has one residual layer more than attentions; it leads the others.
    count = len(attentions) or len(getattr(block, "resnets", ()))
    depths = [_depth(attention) for attention in attentions] or [0] * count
    return _channels(block, attentions), depths


def _depth(attention: Any) -> int:
    """How many transformer blocks with cross-attention a spatial transformer has."""
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
