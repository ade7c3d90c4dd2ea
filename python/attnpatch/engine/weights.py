# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""One weight grammar for every patch: over layers, over progress, per sample."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from attnpatch._core import Curve, layer_weights, weight_presets
from attnpatch.engine.joint_layers import JointTable, Table

__all__ = ["LayerWeights", "Weight", "WeightLike", "number", "weight_presets", "whole_number"]

LayerWeights = float | str | Mapping[Any, Any] | Sequence[float]


@dataclass(frozen=True)
class Weight:
    """How strong a patch is: ``scale`` × layer's weight × curve(progress) × sample's weight.

    Parameters
    ----------
    scale
        A number for all.
    layers
        A number; the name of a preset (``weight_presets()``); a dict {t: weight} over the spatial
        transformers in forward order (t = 0 … 10 in SDXL, 0 … 15 in SD1.x), which may also be
        written "3:1.0, 6:0.5"; a dict by name, as
        diffusers has it (``{"down": {"block_2": [0.0, 1.0]}, "mid": 1.0}``) or with layers' names
        or the front of them up to a dot; a list of one number for each layer in checkpoint order.
        Layers that a dict does not name get nothing.
    curve
        Points (progress, factor), progress from 0 to 1, with straight lines between them and level
        outside.
    samples
        One factor for each sample of the batch, as numbers or a tensor of shape (samples,).

    Raises
    ------
    TypeError, ValueError
        For what the grammar does not know. What does not fit a UNet is found when binding to it.

    Examples
    --------
    >>> Weight(0.8, "ease in")
    Weight(0.8, 'ease in')
    >>> Weight(layers={6: 1.0}, curve=[(0.0, 1.0), (0.5, 0.0)])
    Weight(layers={6: 1.0}, curve=((0.0, 1.0), (0.5, 0.0)))
    """

    scale: float = 1.0
    layers: Any = "linear"
    curve: tuple[tuple[float, float], ...] = ()
    samples: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", number("weight", self.scale))
        object.__setattr__(self, "layers", _freeze_layers(self.layers))
        points = tuple((number("curve", p), number("curve", f)) for p, f in self.curve)
        for progress, _ in points:
            if not 0 <= progress <= 1:
                raise ValueError(f"curve: expected a progress of 0 to 1 in points, got {progress}")
        Curve(list(points))  # says what is wrong with their order
        object.__setattr__(self, "curve", points)
        samples: tuple[float, ...] | torch.Tensor = self.samples
        if isinstance(samples, torch.Tensor):
            if samples.dim() > 1:
                raise ValueError(
                    f"weight: expected a tensor of shape (samples,), got {tuple(samples.shape)}"
                )
            _refuse_gradient("weight", samples)
            samples = tuple(samples.reshape(-1).tolist())
        object.__setattr__(self, "samples", tuple(number("weight", p) for p in samples))

    @classmethod
    def of(cls, value: WeightLike) -> Weight:
        """Read the grammar's short forms: a number, a tensor, or what ``layers`` takes."""
        if isinstance(value, Weight):
            return value
        if isinstance(value, torch.Tensor):
            # A tensor becomes numbers when it is read.
            of_all: Any = value
            return cls(of_all) if value.dim() == 0 else cls(samples=of_all)
        if isinstance(value, str | Mapping | Sequence):
            return cls(layers=value)
        return cls(value)

    def for_layers(self, table: Table) -> list[float | None]:
        """``scale`` × the weight of each layer of the table; None: the grammar gives it none."""
        layers = self.layers
        if isinstance(layers, _Frozen):
            layers = dict(layers)
            if layers and isinstance(next(iter(layers)), str):
                layers = {name: list(values) for name, values in layers.items()}
        elif isinstance(layers, tuple):
            layers = list(layers)
        if layers == {}:
            return [None] * len(table)
        if isinstance(table, JointTable):
            weights = table.weights(layers)
        else:
            weights = layer_weights(table, layers)
        return [None if weight is None else self.scale * weight for weight in weights]

    def factor(self, progress: float | None) -> float:
        """Evaluate the curve; progress may be unknown only where there is no curve."""
        if not self.curve:
            return 1.0
        if progress is None:
            raise ValueError("progress: a weight with a curve needs it, and the host gave none")
        return Curve(list(self.curve))(progress)

    def to_json(self) -> dict[str, Any]:
        """Give plain values for JSON; ``from_json`` reads them."""
        layers = self.layers
        if isinstance(layers, _Frozen):
            layers = {"pairs": [list(pair) for pair in layers]}
        return {
            "scale": self.scale,
            "layers": layers,
            "curve": self.curve,
            "pictures": self.samples,  # the name that the format has
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Weight:
        """Read what ``to_json`` gave."""
        layers = values["layers"]
        if isinstance(layers, Mapping):
            layers = dict(layers["pairs"])
        return cls(values["scale"], layers, values["curve"], values["pictures"])

    def __repr__(self) -> str:
        parts = [] if self.scale == 1.0 else [repr(self.scale)]
        if self.layers != "linear":
            shown = dict(self.layers) if isinstance(self.layers, _Frozen) else self.layers
            parts.append(repr(shown) if parts and isinstance(shown, str) else f"layers={shown!r}")
        if self.curve:
            parts.append(f"curve={self.curve!r}")
        if self.samples:
            parts.append(f"samples={self.samples!r}")
        return f"Weight({', '.join(parts)})"


WeightLike = Weight | float | str | torch.Tensor | Mapping[Any, Any] | Sequence[float]


class _Frozen(tuple[Any, ...]):
    """A dict's items, sorted: hashable, and told from a list of numbers."""

    __slots__ = ()


def number(what: str, value: Any) -> float:
    """Return a finite number as a float; errors name `what`."""
    _refuse_gradient(what, value)
    try:
        if isinstance(value, bool | str) or not hasattr(value, "__float__"):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, RuntimeError):  # an array's or a tensor's
        raise TypeError(f"{what}: expected a number, got {value!r}") from None
    if not math.isfinite(number):
        raise ValueError(f"{what}: expected a finite number, got {number}")
    return number


def whole_number(what: str, value: Any, low: int, high: int | None = None) -> int:
    """Return a whole number within its limits as an int; errors name `what`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{what}: expected a whole number, got {value!r}")
    if number < low or (high is not None and number > high):
        wanted = f"at least {low}" if high is None else f"{low} to {high}"
        raise ValueError(f"{what}: expected {wanted}, got {number}")
    return number


def _refuse_gradient(what: str, value: Any) -> None:
    if isinstance(value, torch.Tensor) and value.requires_grad:
        raise ValueError(
            f"{what}: expected a number, got a tensor whose gradient would be cut; "
            "to learn an image prompt's weight, multiply its mask by it, such as "
            "weight * torch.ones(1, 1), or give weight.detach()"
        )


def _freeze_layers(layers: Any) -> Any:
    if isinstance(layers, str) and ":" in layers:
        return _freeze_dict(_parse_pairs(layers))
    if isinstance(layers, str):
        known = weight_presets()
        if layers not in known:
            raise ValueError(
                f"weight: no preset is called {layers!r}; there are {', '.join(map(repr, known))}"
            )
        return layers
    if isinstance(layers, _Frozen):
        return layers
    if isinstance(layers, Mapping):
        return _freeze_dict(layers)
    if isinstance(layers, Sequence):
        return tuple(number("weight", value) for value in layers)
    return number("weight", layers)


def _parse_pairs(text: str) -> dict[int, float]:
    try:
        pairs = [part.split(":") for part in text.split(",") if part.strip()]
        return {int(t): float(weight) for t, weight in pairs}
    except ValueError:
        raise ValueError(f"weight: expected 't:weight, t:weight, …', got {text!r}") from None


def _freeze_dict(layers: Mapping[Any, Any]) -> _Frozen:
    if all(isinstance(key, int) and not isinstance(key, bool) for key in layers):
        return _Frozen(sorted((t, number("weight", value)) for t, value in layers.items()))
    if not all(isinstance(key, str) for key in layers):
        raise TypeError(
            "weight: expected a dict's keys to be all numbers t or all names, "
            f"got {', '.join(map(repr, layers))}"
        )
    flat: dict[str, tuple[float, ...]] = {}
    for name, value in layers.items():
        parts = value.items() if isinstance(value, Mapping) else [("", value)]
        for part, weights in parts:
            many = weights if isinstance(weights, Sequence) else [weights]
            full = f"{name}.{part}" if part else name
            flat[full] = tuple(number("weight", weight) for weight in many)
    return _Frozen(sorted(flat.items()))
