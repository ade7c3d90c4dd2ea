# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A patch: what it is, how strong it is as sampling goes on, and where in the picture it acts."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from attnpatch.display.card import (
    badge,
    card,
    count,
    facts,
    folded,
    more,
    part,
    picture,
    short,
    size,
)
from attnpatch.display.markup import Markup, tag
from attnpatch.display.png import shrink
from attnpatch.display.strength import strength_of
from attnpatch.display.style import colour
from attnpatch.display.svg import bars, curve
from attnpatch.engine import Patch, Weight, layer_table
from attnpatch.patches import ImagePrompt
from attnpatch.patches.image_prompt.options import default_scaling

__all__ = ["describe", "html"]

_MASKS = 4
_FAMILIES = ("sd1", "sd2", "sdxl")


def html(patch: Patch) -> Markup:
    """Show one patch as a card."""
    summary = f"{size(patch.nbytes)} kept" if patch.nbytes else "keeps no tensors"
    return card(type(patch).__name__, summary, describe(patch), plain=repr(patch))


def describe(patch: Patch, index: int | None = None) -> Markup:
    """Show a patch as a part of a card; in a stack with its place, and its name."""
    where = 0 if index is None else index
    head = None
    if index is not None:
        name = tag("span", type(patch).__name__, class_="ap-name")
        kept = f" {size(patch.nbytes)}" if patch.nbytes else ""
        head = tag("div", badge(index), name, tag("span", kept, class_="ap-soft"))
    strength = strength_of(patch)
    drawings = [
        None if strength is None else _figure(curve(strength, colour(where)), strength.name),
        _layer_bars(patch, colour(where)),
        *_masks(patch),
    ]
    return part(
        tag("div", head, facts(_facts(patch)), folded("as text", repr(patch)), class_="ap-text"),
        tag("div", *drawings, class_="ap-row"),
    )


def _figure(drawing: Markup, caption: str) -> Markup:
    return tag("figure", drawing, tag("figcaption", caption))


def _facts(patch: Patch) -> Iterator[tuple[str, object]]:
    if isinstance(patch, ImagePrompt):
        kept = patch.keys_values
        yield "from", short(patch.source or "keys and values")
        pictures = count(kept.pictures, "picture")
        yield "tokens", f"{kept.tokens} for each of {pictures}, {kept.negatives} for uncond"
        yield "layers", f"{len(kept.channels)}, {str(kept.dtype).removeprefix('torch.')}"
    for name, value in _options(patch):
        if name in ("start", "end"):
            continue
        yield name.replace("_", " "), _weight(value) if isinstance(value, Weight) else _said(value)
    start, end = getattr(patch, "start", None), getattr(patch, "end", None)
    if isinstance(start, int | float) and isinstance(end, int | float):
        whole = (start, end) == (0.0, 1.0)
        yield "active", "throughout" if whole else f"from {start:.0%} to {end:.0%}"


def _options(patch: Patch) -> Iterator[tuple[str, Any]]:
    """Give the options that are not as they are by default, and a weight in any case."""
    makes = ImagePrompt if isinstance(patch, ImagePrompt) else type(patch)
    for name, parameter in inspect.signature(makes).parameters.items():
        if name in ("adapter", "embeds", "mask") or not hasattr(patch, name):
            continue
        value, default = getattr(patch, name), parameter.default
        if isinstance(patch, ImagePrompt) and name == "scaling":
            default = default_scaling(patch.shared_softmax)
        if isinstance(value, torch.Tensor):
            yield name, f"{tuple(value.shape)}, {str(value.dtype).removeprefix('torch.')}"
        elif name in ("weight", "scale", "gain") or not _same(value, default):
            yield name, value


def _same(value: object, default: object) -> bool:
    """Whether an option is as it is by default; arrays do not tell, and are shown."""
    try:
        return bool(value == default)
    except (TypeError, ValueError, RuntimeError):
        return False


def _weight(weight: Weight) -> str:
    """Say a weight in words; the drawings and the text have all of it."""
    told = [f"{weight.scale:g}"]
    if isinstance(weight.layers, str):
        told += [] if weight.layers == "linear" else [f"over the layers “{weight.layers}”"]
    else:
        told.append("of its own at each layer")
    told += [f"a curve of {len(weight.curve)} points"] if weight.curve else []
    told += [f"times {', '.join(f'{p:g}' for p in weight.samples)}"] if weight.samples else []
    return short(", ".join(told))


def _said(value: object) -> str:
    return short(f"{value:g}" if isinstance(value, float) else str(value))


def _layer_bars(patch: Patch, paint: str) -> Markup | None:
    """Draw the weights over the layers, where they differ and the model is known."""
    weight = getattr(patch, "weight", None)
    if not isinstance(patch, ImagePrompt) or weight is None or weight.layers == "linear":
        return None
    for family in _FAMILIES:
        table = layer_table(family)
        if table.channels == patch.keys_values.channels:
            values = weight.for_layers(table)
            text = "weights of the layers, in checkpoint order"
            return _figure(bars(values, paint, text), text)
    return None


def _masks(patch: Patch) -> Iterator[Markup]:
    mask = getattr(patch, "mask", None)
    if not isinstance(mask, torch.Tensor) or mask.dim() != 3:
        return
    values = mask.detach().float().cpu()
    for index, one in enumerate(values[:_MASKS]):
        shown = (one.nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        size = " × ".join(map(str, one.shape))
        label = f"mask {size}" if len(values) == 1 else f"mask {index + 1} of {len(values)}, {size}"
        mean = float(one.double().mean())
        share = f"{label}: {mean:.0%} on average" if math.isfinite(mean) else f"{label}: not finite"
        yield picture(shrink(np.ascontiguousarray(shown), 128), share, height=62, caption=label)
    if len(values) > _MASKS:
        yield more(len(values) - _MASKS)
