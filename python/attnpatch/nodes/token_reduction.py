# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes that give self-attention fewer tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import partial
from typing import Any

import attnpatch
from attnpatch.engine import Patch
from attnpatch.nodes import inputs as common
from attnpatch.nodes.spec import Input, NodeSpec, Output
from attnpatch.patches import (
    HyperTile,
    NearSightedAttention,
    NearSightedTile,
    SlothfulAttention,
    TokenMerging,
)
from attnpatch.patches.token_reduction.patch import PACK

__all__ = ["NODES"]

_TIME = ("peak_time", "time_decay")
_SIDES = tuple(
    f"{side}_{name}"
    for side in ("in", "out")
    for name in ("mode", "depth_decay", "slothful", "k_blend", "v_blend")
)
_RELATIVES = "model_patches/unet"  # where the host has its own
_TILES = ("base_tile_size", "peak_tile_size", "base_global_ratio", "peak_global_ratio")
# Inputs called "seed" get a second widget in the host, by which they change with every run.
_RENAMED = {"tile_seed": "seed", "cell_seed": "seed"}


def _inputs(patch: type[Patch], names: Iterable[str], *, optional: bool = False) -> list[Input]:
    """Make inputs of a patch's parameters, which say all there is to say."""
    declared = {_RENAMED.get(name, name): name for name in names}
    by_name = {f.name: f for f in fields(patch)}  # type: ignore[arg-type]
    return [
        _input(shown, by_name[name].default, by_name[name].metadata, optional)
        for name, shown in declared.items()
    ]


def _input(name: str, default: Any, metadata: Any, optional: bool) -> Input:
    types = {float: "FLOAT", int: "INT", bool: "BOOLEAN", str: "COMBO"}
    return Input(
        id=name,
        type=types[metadata["type"]],
        tooltip=metadata["text"],
        default=default,
        minimum=metadata.get("low"),
        maximum=metadata.get("high"),
        step=metadata.get("step"),
        choices=metadata.get("options", ()),
        optional=optional,
    )


def _apply(make: Callable[..., Patch], *, model: Any, **values: Any) -> tuple[Any]:
    """Return a clone of the model with the patch that `make` gives for these parameters."""
    if values.pop(_QUIRKS.id, False):
        values["compat"] = PACK
    patch = make(**{_RENAMED.get(name, name): value for name, value in values.items()})
    return (attnpatch.patch_model(model, [patch]),)


def _node(
    id: str,
    title: str,
    description: str,
    inputs: list[Input],
    make: Callable[..., Patch],
    category: str = "SlothfulAttention",
) -> NodeSpec:
    return NodeSpec(
        id=id,
        title=title,
        category=category,
        description=description,
        inputs=(common.MODEL, *inputs),
        outputs=(Output("MODEL", "MODEL", "The model with fewer tokens in its self-attention."),),
        run=partial(_apply, make),
    )


def _simple_inputs() -> list[Input]:
    """Make the Simple node's own inputs, in the ranges of those that they stand for."""
    declared = {f.name: f for f in fields(NearSightedAttention)}

    def like(name: str, id: str, default: float, text: str) -> Input:
        return _input(id, default, {**declared[name].metadata, "text": text}, optional=False)

    strength = "How many tokens become one, at the peak time and the first depth; 1 or less: none."
    blend = "blocks: 0 takes every n-th token as it is, 1 what the tokens around it pool to."
    return [
        like("in_slothful", "slothful", 4.0, strength),
        like("in_k_blend", "in_blend", 0.0, f"Input {blend}"),
        like("out_k_blend", "out_blend", 0.0, f"Output {blend}"),
    ]


# Workflows hold this name: a node knows one program to imitate, and asks for no other.
_QUIRKS = Input(
    id="reference_quirks",
    type="BOOLEAN",
    default=False,
    tooltip="Do as comfyui_slothful_attention where it errs, to match old workflows.",
    optional=True,
)
_NEAR_SIGHTED = _inputs(NearSightedAttention, ("tiling_max_depth", *_TIME, *_TILES))
_NEAR_SIGHTED_MORE = [*_inputs(NearSightedAttention, ("tile_seed",), optional=True), _QUIRKS]

NODES = (
    _node(
        "SlothfulAttention",
        "Slothful Attention",
        "Self-attention looks at every n-th token: faster, above all for large pictures.",
        [*_inputs(SlothfulAttention, (*_TIME, *_SIDES)), _QUIRKS],
        SlothfulAttention,
    ),
    _node(
        "NearSightedAttention",
        "Near-sighted Attention",
        "Self-attention looks at few tokens of its own tile and at fewer of the whole picture.",
        _NEAR_SIGHTED + _inputs(NearSightedAttention, _SIDES) + _NEAR_SIGHTED_MORE,
        NearSightedAttention,
    ),
    _node(
        "NearSightedAttentionSimple",
        "Near-sighted Attention (Simple)",
        "Near-sighted Attention with one strength for input and output blocks.",
        _NEAR_SIGHTED + _simple_inputs() + _NEAR_SIGHTED_MORE,
        NearSightedAttention.simple,
    ),
    _node(
        "NearSightedTile",
        "Near-sighted Tile",
        "Self-attention looks at its own tile of the picture and at a sample of the whole.",
        _inputs(NearSightedTile, ("tiling_max_depth", "global_ratio", "tile_size"))
        + _inputs(NearSightedTile, ("tile_seed",), optional=True)
        + [_QUIRKS],
        NearSightedTile,
    ),
    _node(
        "AttentionPatchesTokenMerging",
        "Token Merging (attention patches)",
        "Tokens that look alike attend as one. Beside the other nodes of fewer tokens each layer "
        "takes the last that acts there.",
        _inputs(TokenMerging, ("ratio", "stride", "max_depth", "regular", "cell_seed")),
        TokenMerging,
        _RELATIVES,
    ),
    _node(
        "AttentionPatchesHyperTile",
        "HyperTile (attention patches)",
        "Self-attention looks at its own tile of the picture alone, at any size. Beside the other "
        "nodes of fewer tokens each layer takes the last that acts there.",
        _inputs(HyperTile, ("tile_size", "swap_size", "max_depth", "scale_depth", "tile_seed")),
        HyperTile,
        _RELATIVES,
    ),
)
