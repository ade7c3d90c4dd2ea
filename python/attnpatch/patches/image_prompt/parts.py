# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Image keys and values of some rows: kept, or made at each call for gradients to flow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

__all__ = [
    "LayerTensors",
    "MakeLayer",
    "Part",
    "TrainablePart",
    "check_finite",
    "make_part",
    "own_copies",
    "parts_from_state",
    "parts_state",
]

LayerTensors = tuple[tuple[Tensor, Tensor], ...]
MakeLayer = Callable[[int], tuple[Tensor, Tensor]]
"""Gives keys and values (rows, tokens, channels) of the layer of this index."""


@dataclass(frozen=True, eq=False)
class Part:
    """Keys and values of rows that have equally many tokens."""

    first: int
    """The first of these rows, counted over all: pictures, then negatives."""
    rows: int
    layers: LayerTensors
    """For each layer keys and values (rows, tokens, channels)."""

    requires_grad: ClassVar[bool] = False

    @property
    def channels(self) -> tuple[int, ...]:
        """The channels of every layer."""
        return tuple(k.shape[2] for k, _ in self.layers)

    @property
    def tokens(self) -> int:
        """Image tokens of a row."""
        return self.layers[0][0].shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which they are kept."""
        return self.layers[0][0].dtype


@dataclass(frozen=True, eq=False)
class TrainablePart:
    """Keys and values as those of a ``Part``, made of tensors that require a gradient.

    They are made anew wherever they are used: so they follow an optimiser's steps, each call has a
    graph of its own, and gradient checkpointing makes again what it needs.
    """

    first: int
    rows: int
    channels: tuple[int, ...]
    tokens: int
    dtype: torch.dtype
    make_layer: MakeLayer

    requires_grad: ClassVar[bool] = True

    @property
    def layers(self) -> LayerTensors:
        """Every layer's values as they are now, without a graph."""
        with torch.inference_mode(False), torch.no_grad():
            made = [self.make_layer(index) for index in range(len(self.channels))]
        return own_copies("image prompt", made)


def make_part(
    first: int, layers: LayerTensors, make_layer: MakeLayer | None
) -> Part | TrainablePart:
    """Make a part of keys and values; of such as `make_layer` makes, where that is given."""
    part = Part(first, len(layers[0][0]), layers)
    if make_layer is None:
        return part
    sizes = part.channels, part.tokens, part.dtype
    return TrainablePart(first, part.rows, *sizes, make_layer)


def check_finite(name: str, layers: LayerTensors) -> None:
    """Raise ValueError where keys or values are not finite, as of a dtype without room for them."""
    finite = torch.stack([t.isfinite().all() for pair in layers for t in pair])
    if finite.is_meta or finite.all():  # one look for all: it waits for a GPU
        return
    index = int(finite.logical_not().nonzero()[0, 0])
    part, dtype = ("keys", "values")[index % 2], layers[0][0].dtype
    raise ValueError(
        f"{name}: expected finite {part} in layer {index // 2}, got NaN or infinity in {dtype}"
    )


def own_copies(name: str, layers: Sequence[Any]) -> LayerTensors:
    """Check and copy one pair (rows, tokens, channels) a layer, all of as many rows."""
    if len(layers) == 0:
        raise ValueError(f"{name}: expected keys and values of at least one layer, got none")
    first = layers[0][0]
    result = []
    with torch.inference_mode(False), torch.no_grad():
        for index, (k, v) in enumerate(layers):
            fits = k.dim() == 3 and k.shape == v.shape and 0 not in k.shape
            if not fits or not k.is_floating_point() or not v.is_floating_point():
                raise ValueError(
                    f"{name}: layer {index}: expected keys and values of one floating-point shape "
                    f"(rows, tokens, channels), got {tuple(k.shape)} {k.dtype} and "
                    f"{tuple(v.shape)} {v.dtype}"
                )
            if len(k) != len(first):
                raise ValueError(
                    f"{name}: layer {index}: expected {len(first)} rows as layer 0 has, "
                    f"got {len(k)}"
                )
            result.append(
                tuple(
                    t.detach().to(first.device, first.dtype, copy=True).contiguous() for t in (k, v)
                )
            )
    return tuple(result)


def parts_state(
    parts: Iterable[Part | TrainablePart],
) -> tuple[list[dict[str, int]], dict[str, Tensor]]:
    """Give everything that parts are: plain values for JSON, and tensors."""
    values, tensors = [], {}
    for number, part in enumerate(parts):
        layers = part.layers
        values.append({"first": part.first, "rows": part.rows, "layers": len(layers)})
        for index, (k, v) in enumerate(layers):
            tensors[f"{number}.{index}.keys"] = k
            tensors[f"{number}.{index}.values"] = v
    return values, tensors


def parts_from_state(
    values: Iterable[Mapping[str, int]], tensors: Mapping[str, Tensor]
) -> tuple[Part, ...]:
    """Make parts again of what ``parts_state`` gave."""
    return tuple(
        Part(
            part["first"],
            part["rows"],
            tuple(
                (tensors[f"{number}.{index}.keys"], tensors[f"{number}.{index}.values"])
                for index in range(part["layers"])
            ),
        )
        for number, part in enumerate(values)
    )
