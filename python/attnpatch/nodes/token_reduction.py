# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes that give self-attention fewer tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import partial
from typing import Any

import attnpatch
from attnpatch.nodes import inputs as common
from attnpatch.nodes.spec import Input, NodeSpec, Output
from attnpatch.patches import NearSightedAttention, NearSightedTile, Patch, SlothfulAttention

__all__ = ["NODES"]

_TIME = ("peak_time", "time_decay")
_SIDES = tuple(
    f"{side}_{name}"
    for side in ("in", "out")
    for name in ("mode", "depth_decay", "slothful", "k_blend", "v_blend")
)
_TILES = ("base_tile_size", "peak_tile_size", "base_global_ratio", "peak_global_ratio")
# Inputs called "seed" get a second widget in the host, by which they change with every run.
_RENAMED = {"seed": "tile_seed"}


def _inputs(patch: type[Patch], names: Iterable[str], *, optional: bool = False) -> list[Input]:
    """Make inputs of a patch's parameters, which say all there is to say."""
    declared = {f.name: f for f in fields(patch)}  # type: ignore[arg-type]
    return [
        _input(_RENAMED.get(name, name), declared[name].default, declared[name].metadata, optional)
        for name in names
    ]


def _input(name: str, default: Any, metadata: Any, optional: bool) -> Input:
    kinds = {float: "FLOAT", int: "INT", bool: "BOOLEAN", str: "COMBO"}
    return Input(
        id=name,
        kind=kinds[metadata["type"]],
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
    names = {shown: name for name, shown in _RENAMED.items()}
    patch = make(**{names.get(shown, shown): value for shown, value in values.items()})
    return (attnpatch.patch_model(model, [patch]),)


def _node(
    id: str, title: str, description: str, inputs: list[Input], make: Callable[..., Patch]
) -> NodeSpec:
    return NodeSpec(
        id=id,
        title=title,
        category="SlothfulAttention",
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


_NEAR_SIGHTED = _inputs(NearSightedAttention, ("tiling_max_depth", *_TIME, *_TILES))
_NEAR_SIGHTED_MORE = _inputs(NearSightedAttention, ("seed", "reference_quirks"), optional=True)

NODES = (
    _node(
        "SlothfulAttention",
        "Slothful Attention",
        "Self-attention looks at every n-th token: faster, above all for large pictures.",
        _inputs(SlothfulAttention, (*_TIME, *_SIDES))
        + _inputs(SlothfulAttention, ("reference_quirks",), optional=True),
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
        + _inputs(NearSightedTile, ("seed", "reference_quirks"), optional=True),
        NearSightedTile,
    ),
)
