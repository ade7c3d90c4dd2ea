# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Image keys and values of every layer, and how a weight is folded into them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attnpatch._core import LayerTable, layer_table

__all__ = ["SCALINGS", "KeysValues", "Part", "Scaling", "family_of", "move"]

LayerTensors = tuple[tuple[Tensor, Tensor], ...]


@dataclass(frozen=True)
class Scaling:
    """One way in which a weight acts on an image branch."""

    keys: bool
    """The keys are multiplied by it."""
    mean: bool
    """Only the mean of the values over the tokens is multiplied by it, not the whole output."""
    penalty: bool
    """It is multiplied by channels / 1280 first."""

    def effective(self, weight: float, channels: int) -> float:
        """Give the weight as it acts on a layer with so many channels."""
        return weight * channels / 1280 if self.penalty else weight

    def folds(self, joint: bool) -> bool:
        """Whether keys or values change; else the branch's output alone is multiplied."""
        return self.keys or self.mean or joint

    def fold(
        self, k: Tensor, v: Tensor, weight: Tensor, joint: bool, own_tokens: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Fold effective weights (rows, 1, 1) into keys and values (rows, tokens, channels).

        A row may hold several reference pictures of `own_tokens` each; 0: it holds one.
        """
        if self.keys:
            k = k.float() * weight
        if self.mean:
            each = v.float().unflatten(1, (-1, own_tokens or v.shape[1]))
            mean = each.mean(dim=2, keepdim=True)
            v = ((each - mean) + mean * weight[..., None]).flatten(1, 2)
        elif joint:  # in a joint softmax nothing multiplies one branch's output
            v = v.float() * weight
        return k, v


SCALINGS = {
    "V only": Scaling(keys=False, mean=False, penalty=False),
    "K+V": Scaling(keys=True, mean=False, penalty=False),
    "K+V w/ C penalty": Scaling(keys=True, mean=False, penalty=True),
    "K+mean(V) w/ C penalty": Scaling(keys=True, mean=True, penalty=True),
}


@dataclass(frozen=True, eq=False)
class Part:
    """Keys and values of rows that have equally many tokens."""

    first: int
    """The first of these rows, counted over all: pictures, then negatives."""
    rows: int
    layers: LayerTensors
    """For each layer keys and values (rows, tokens, channels)."""


@dataclass(frozen=True, eq=False)
class KeysValues:
    """The image keys and values of every layer: rows for pictures, then rows for negatives."""

    pictures: int
    negatives: int
    parts: tuple[Part, ...]
    own_tokens: int = 0
    """Tokens of each of the reference pictures that a row joins; 0: a row is one of them."""

    @classmethod
    def project(cls, adapter: Any, embeds: Any) -> KeysValues:
        """Project image tokens by the adapter's weights, once for all layers and steps."""
        cond, uncond = _tokens(embeds)
        made_by = getattr(embeds, "metadata", {}).get("digest")
        if made_by and made_by != getattr(adapter, "digest", made_by):
            raise ValueError(
                f"embeds: made by another adapter ({embeds.metadata.get('kind')}, {made_by[:12]}) "
                f"than the one given ({adapter.kind}, {adapter.digest[:12]})"
            )
        own = getattr(adapter, "tokens", 0)
        if own and any(t is not None and t.shape[1] % own for t in (cond, uncond)):
            own = 0
        with torch.inference_mode(False), torch.no_grad():
            if uncond is None or cond.shape[1] != uncond.shape[1]:
                split = [None if t is None else adapter.project_sites(t) for t in (cond, uncond)]
                return replace(cls.from_lists(*split), own_tokens=own)
            both = adapter.project_sites(torch.cat([cond, uncond]))
        part = Part(0, len(cond) + len(uncond), _checked("adapter", both))
        return cls(len(cond), len(uncond), (part,), own)._valid()

    @classmethod
    def from_lists(cls, cond: Sequence[Any], uncond: Sequence[Any] | None) -> KeysValues:
        """Take ready keys and values: for each layer a pair of (rows, tokens, channels)."""
        positive = _checked("cond", cond)
        pictures = len(positive[0][0])
        if uncond is None:
            return cls(pictures, 0, (Part(0, pictures, positive),))._valid()
        negative = _checked("uncond", uncond)
        negatives = len(negative[0][0])
        if [k.shape[2] for k, _ in positive] != [k.shape[2] for k, _ in negative]:
            raise ValueError(
                f"uncond: expected {len(positive)} layers of the same channels as cond, "
                f"got {len(negative)} layers"
            )
        same = all(p[0].shape[1] == n[0].shape[1] for p, n in zip(positive, negative, strict=True))
        if not same:
            parts = (Part(0, pictures, positive), Part(pictures, negatives, negative))
            return cls(pictures, negatives, parts)._valid()
        with torch.inference_mode(False), torch.no_grad():
            layers = tuple(
                (torch.cat([pk, nk.to(pk)]), torch.cat([pv, nv.to(pv)]))
                for (pk, pv), (nk, nv) in zip(positive, negative, strict=True)
            )
        part = Part(0, pictures + negatives, layers)
        return cls(pictures, negatives, (part,))._valid()

    def _valid(self) -> KeysValues:
        if self.negatives not in (0, 1, self.pictures):
            raise ValueError(
                f"uncond: expected 1 or {self.pictures} pictures (as many as cond), "
                f"got {self.negatives}"
            )
        return self

    @property
    def channels(self) -> tuple[int, ...]:
        """The channels of every layer."""
        return tuple(k.shape[2] for k, _ in self.parts[0].layers)

    @property
    def tokens(self) -> int:
        """Image tokens of a picture."""
        return self.parts[0].layers[0][0].shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which they are kept."""
        return self.parts[0].layers[0][0].dtype

    def check(self, table: LayerTable) -> None:
        """Raise ValueError, naming both, unless the layers are those of the table."""
        if self.channels == table.channels:
            return
        if len(self.channels) != len(table):
            raise ValueError(
                f"image prompt: the adapter has {len(self.channels)} sites "
                f"({family_of(self.channels)}); this UNet has {len(table)} ({table.family})"
            )
        for layer, channels in zip(table, self.channels, strict=True):
            if layer.channels != channels:
                raise ValueError(
                    f"image prompt: the adapter's site {layer.index} has {channels} channels; "
                    f"this UNet's layer {layer.name} has {layer.channels}"
                )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, KeysValues):
            return NotImplemented
        return self is other or (
            (self.pictures, self.negatives) == (other.pictures, other.negatives)
            and self.own_tokens == other.own_tokens
            and len(self.parts) == len(other.parts)
            and all(_equal(a, b) for a, b in zip(self.parts, other.parts, strict=True))
        )

    def __hash__(self) -> int:
        return hash((self.pictures, self.negatives, self.channels, self.tokens))


def family_of(channels: tuple[int, ...]) -> str:
    """Name the UNets whose layers have these channels."""
    for name in ("sd1", "sdxl"):
        if channels == layer_table(name).channels:
            return layer_table(name).family
    return "custom"


def move(layers: LayerTensors, dtype: torch.dtype, device: torch.device) -> LayerTensors:
    """Bring keys and values to a device and dtype; to another device in one copy."""
    if layers[0][0].device == device:
        return tuple((k.to(dtype), v.to(dtype)) for k, v in layers)
    flat = [t.to(dtype).reshape(-1) for pair in layers for t in pair]
    flat = [F.pad(t, (0, -t.numel() % 64)) for t in flat]  # every tensor starts aligned
    pieces = iter(torch.cat(flat).to(device).split([t.numel() for t in flat]))
    return tuple(
        (next(pieces)[: k.numel()].view(k.shape), next(pieces)[: v.numel()].view(v.shape))
        for k, v in layers
    )


def _tokens(embeds: Any) -> tuple[Tensor, Tensor | None]:
    if isinstance(embeds, tuple | list) and len(embeds) == 2:
        cond, uncond = embeds
    elif hasattr(embeds, "cond") and hasattr(embeds, "uncond"):
        cond, uncond = embeds.cond, embeds.uncond
    else:
        raise TypeError(
            "embeds: expected what get_image_embeds gives, or a pair (cond, uncond) of tensors, "
            f"got {type(embeds).__name__}"
        )
    for name, tokens in (("cond", cond), ("uncond", uncond)):
        if name == "uncond" and tokens is None:
            continue
        if not isinstance(tokens, Tensor) or tokens.dim() != 3:
            shape = tuple(tokens.shape) if isinstance(tokens, Tensor) else tokens
            raise ValueError(
                f"embeds: expected {name} of shape (pictures, tokens, context), got {shape}"
            )
    return cond, uncond


def _checked(name: str, layers: Sequence[Any]) -> LayerTensors:
    """Own copies of one pair (rows, tokens, channels) a layer, all of as many rows."""
    if len(layers) == 0:
        raise ValueError(f"{name}: expected keys and values of at least one layer, got none")
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
            if len(k) != len(layers[0][0]):
                raise ValueError(
                    f"{name}: layer {index}: expected {len(layers[0][0])} rows as layer 0 has, "
                    f"got {len(k)}"
                )
            first = layers[0][0]
            result.append(
                tuple(
                    t.detach().to(first.device, first.dtype, copy=True).contiguous() for t in (k, v)
                )
            )
    return tuple(result)


def _equal(a: Part, b: Part) -> bool:
    if (a.first, a.rows, len(a.layers)) != (b.first, b.rows, len(b.layers)):
        return False
    pairs = zip(a.layers, b.layers, strict=True)
    return all(
        x.dtype == y.dtype and x.shape == y.shape and torch.equal(x.cpu(), y.cpu())
        for left, right in pairs
        for x, y in zip(left, right, strict=True)
    )
