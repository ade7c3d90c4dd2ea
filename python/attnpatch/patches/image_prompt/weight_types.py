# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Weight types: named ways to spread an image prompt over layers, composition weighed apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from attnpatch._core import layer_table, layer_weights, weight_presets
from attnpatch.engine.weights import Weight
from attnpatch.patches.image_prompt.prompt import ImagePrompt

__all__ = ["WEIGHT_TYPES", "WeightPart", "split_by_weight_type"]


@dataclass(frozen=True)
class WeightPart:
    """A part of a weight type.

    Parameters
    ----------
    layers
        The preset that says where it acts.
    composition
        Its number is the weight of the composition, not the other one.
    away
        Uncond gets the picture and cond nothing, so that guidance leads away from it.
    """

    layers: str
    composition: bool = False
    away: bool = False


_STYLE = WeightPart("style transfer")
_COMPOSITION = WeightPart("composition", composition=True)

WEIGHT_TYPES: Mapping[str, tuple[WeightPart, ...]] = {
    **{preset: (WeightPart(preset),) for preset in weight_presets()},
    "composition": (_COMPOSITION,),
    "style and composition": (_STYLE, _COMPOSITION),
    "strong style and composition": (WeightPart("strong style transfer"), _COMPOSITION),
    "style transfer precise": (_STYLE, WeightPart("composition", composition=True, away=True)),
    "composition precise": (_COMPOSITION, WeightPart("around composition", away=True)),
}
"""The parts of each weight type. No layer belongs to two of them."""


def split_by_weight_type(
    prompt: ImagePrompt,
    weight_type: str,
    weight: float | Sequence[float] | Tensor = 1.0,
    composition: float | Sequence[float] | Tensor | None = None,
    layers: str = "",
) -> list[ImagePrompt]:
    """Make the image prompts that together are `prompt` under a weight type.

    They share the prompt's tensors, and at each layer at most one of them acts.

    Parameters
    ----------
    prompt
        Its own weight is not used.
    weight_type
        One of ``WEIGHT_TYPES``.
    weight, composition
        A number, or one for each sample of the batch. `composition` is the weight of the layers
        that carry the picture's composition, in the types that tell it apart; None: `weight`.
    layers
        A weight for each spatial transformer, "3:1.0, 6:0.5", in place of the type's own; of the
        type then only remains in which of them the picture leads away.

    Raises
    ------
    ValueError
        For an unknown type, or `layers` that the grammar of ``Weight`` does not know.
    """
    parts = WEIGHT_TYPES.get(weight_type)
    if parts is None:
        known = ", ".join(map(repr, WEIGHT_TYPES))
        raise ValueError(f"weight_type: expected one of {known}, got {weight_type!r}")
    if layers.strip():
        return list(_split_layers(prompt, parts, weight, layers))
    if composition is None:
        composition = weight
    return [
        _weigh(prompt, composition if part.composition else weight, part.layers, part.away)
        for part in parts
    ]


def _split_layers(
    prompt: ImagePrompt, parts: tuple[WeightPart, ...], weight: Any, layers: str
) -> Iterator[ImagePrompt]:
    frozen = Weight(layers=layers).layers
    if isinstance(frozen, str):
        raise ValueError(f"layer_weights: expected 't:weight, t:weight, …', got {layers!r}")
    leading = set()
    for part in parts:
        if part.away:
            leading |= _spatial(part.layers, len(prompt.keys_values.channels))
    for led_away in (False, True):
        chosen = {t: value for t, value in frozen if (t in leading) == led_away}
        if chosen:
            yield _weigh(prompt, weight, chosen, led_away)


def _spatial(preset: str, count: int) -> set[int]:
    """List the spatial transformers of a preset in a UNet of so many layers."""
    for name in ("sd1", "sdxl"):
        table = layer_table(name)
        if len(table) == count:
            pairs = zip(table, layer_weights(table, preset), strict=True)
            return {layer.spatial for layer, weight in pairs if weight is not None}
    raise ValueError(
        f"weight_type: which layers carry a picture's composition is known for SD1.x, SD2.x and "
        f"SDXL; this adapter has {count} layers"
    )


def _weigh(prompt: ImagePrompt, number: Any, layers: Any, away: bool) -> ImagePrompt:
    if isinstance(number, list | tuple):
        weight = Weight(layers=layers, samples=tuple(number))
    else:
        weight = Weight(number, layers)
    if not away:
        return prompt.replace(weight=weight)
    roles = dict(prompt.roles)
    cond, uncond = roles.get(0, "cond"), roles.get(1, "uncond")
    turned = {"cond": "off", "uncond": "cond", "off": "off"}
    roles = {role: turned[name] for role, name in {**roles, 0: cond, 1: uncond}.items()}
    return prompt.replace(weight=weight, roles=roles)
