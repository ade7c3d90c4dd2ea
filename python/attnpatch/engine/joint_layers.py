# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Layers of joint attention: text, image and references attend to each other in one sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import overload

from attnpatch._core import LayerTable

__all__ = ["JointLayer", "JointTable", "Table"]


@dataclass(frozen=True, slots=True)
class JointLayer:
    """One layer of joint attention.

    Parameters
    ----------
    index : int
        Its place in forward order, over all blocks.
    name : str
        Of the attention module in its model, such as "transformer_blocks.0.attn".
    block : str
        What the model calls such blocks: "double", "single", "layers".
    number : int
        Its place among blocks of that name.
    heads : int
        How many heads its queries have.
    channels : int
        Heads times head size.
    """

    index: int
    name: str
    block: str
    number: int
    heads: int
    channels: int


class JointTable(Sequence[JointLayer]):
    """The layers of joint attention of one model, in forward order.

    Parameters
    ----------
    family : str
        The name of the model's architecture.
    layers : sequence of JointLayer
        Their indices count 0, 1, 2, ….
    over_text : bool
        Whether its queries are the image's and its keys the text's: cross-attention.

    Raises
    ------
    ValueError
        Where there are none, or they do not count so.
    """

    __slots__ = ("_layers", "family", "over_text")

    def __init__(
        self, family: str, layers: Sequence[JointLayer], *, over_text: bool = False
    ) -> None:
        self.family = family
        self.over_text = over_text
        self._layers = tuple(layers)
        if [layer.index for layer in self._layers] != list(range(len(self._layers))):
            raise ValueError("layers: expected indices that count 0, 1, 2, …")
        if not self._layers:
            raise ValueError(f"model: this {family} has no layer of joint attention")

    @overload
    def __getitem__(self, index: int) -> JointLayer: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[JointLayer, ...]: ...
    def __getitem__(self, index: int | slice) -> JointLayer | tuple[JointLayer, ...]:
        return self._layers[index]

    def __len__(self) -> int:
        return len(self._layers)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, JointTable):
            return NotImplemented
        return (self.family, self._layers) == (other.family, other._layers)

    def __hash__(self) -> int:
        return hash((self.family, self._layers))

    def __repr__(self) -> str:
        blocks = dict.fromkeys(layer.block for layer in self._layers)
        parts = [f"{self._count(block)} {block}" for block in blocks]
        return f"<JointTable {self.family}: {', '.join(parts)}>"

    def _count(self, block: str) -> int:
        return sum(layer.block == block for layer in self._layers)

    @property
    def heads(self) -> list[int]:
        """How many heads each layer has."""
        return [layer.heads for layer in self._layers]

    @property
    def channels(self) -> list[int]:
        """How many channels each layer has."""
        return [layer.channels for layer in self._layers]

    def weights(
        self,
        layers: float | str | Mapping[int, float] | Mapping[str, Sequence[float]] | list[float],
    ) -> list[float | None]:
        """Return the weight that a grammar gives each layer; None: it names others.

        Parameters
        ----------
        layers
            A number; "linear", which is 1 for all; a dict {place in forward order: weight}; a dict
            {block ("double"), block and number ("double.3"), or the front of a layer's name:
            one weight, or one for each of those layers}; a list of one number for each layer.

        Raises
        ------
        ValueError
            For names and counts that this model does not have.
        """
        if layers == "linear":
            return [1.0] * len(self)
        if isinstance(layers, str):
            raise ValueError(
                f"weight: the preset {layers!r} is made for the blocks of a UNet; for this model, "
                f"{self!r}, give a number, a dict or a list"
            )
        if isinstance(layers, Mapping):
            return self._named(layers)
        if isinstance(layers, list):
            if len(layers) != len(self):
                raise ValueError(
                    f"weight: expected a number for each of the {len(self)} layers of {self!r}, "
                    f"got {len(layers)}"
                )
            return [*layers]
        return [layers] * len(self)

    def _named(
        self, layers: Mapping[int, float] | Mapping[str, Sequence[float]]
    ) -> list[float | None]:
        weights: list[float | None] = [None] * len(self)
        for name, value in layers.items():
            if isinstance(name, int):
                if not 0 <= name < len(self):
                    raise ValueError(
                        f"weight: expected places 0 to {len(self) - 1} of {self!r}, got {name}"
                    )
                weights[name] = float(value)  # type: ignore[arg-type]
                continue
            indices = [layer.index for layer in self._layers if _names(name, layer)]
            values = list(value) if isinstance(value, Sequence) else [value]
            if not indices:
                known = ", ".join(dict.fromkeys(layer.block for layer in self._layers))
                raise ValueError(
                    f"weight: no layer of {self!r} is called {name!r}; there are the blocks "
                    f"{known}, with numbers as in {self._layers[0].block}.0, and names such as "
                    f"{self._layers[0].name}"
                )
            if len(values) not in (1, len(indices)):
                raise ValueError(
                    f"weight: expected 1 or {len(indices)} numbers for {name!r}, got {len(values)}"
                )
            for index, number in zip(indices, values * (len(indices) // len(values)), strict=True):
                weights[index] = number
        return weights


def _names(name: str, layer: JointLayer) -> bool:
    """Whether a name of the grammar is one of a layer's, or the front of one up to a dot."""
    own = (f"{layer.block}.{layer.number}", layer.name)
    return any(full == name or full.startswith(f"{name}.") for full in own)


Table = LayerTable | JointTable
"""The layers of a model: those of a UNet, or those of joint attention."""
