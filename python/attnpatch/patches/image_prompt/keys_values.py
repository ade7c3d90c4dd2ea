# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Image keys and values of every layer, and how a weight is folded into them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor

from attnpatch._core import LayerTable, layer_table
from attnpatch.patches.image_prompt.parts import (
    LayerTensors,
    MakeLayer,
    Part,
    TrainablePart,
    check_finite,
    make_part,
    own_copies,
)

__all__ = ["SCALINGS", "KeysValues", "Scaling", "family_of", "is_described", "move"]


class SiteProjections(Protocol):
    """What projects image tokens to keys and values of a model's layers: an ``ImageAdapter``."""

    def project_sites(self, tokens: Tensor) -> Sequence[tuple[Tensor, Tensor]]:
        """Return keys and values (R, M, channels) of every layer for tokens (R, M, context)."""
        ...


class Described(SiteProjections, Protocol):
    """Projections that say of what checkpoint they are."""

    @property
    def kind(self) -> str:
        """The kind of adapter."""
        ...

    @property
    def family(self) -> str:
        """The family of models."""
        ...

    @property
    def digest(self) -> str:
        """A digest of all weights, in hex."""
        ...


def is_described(adapter: SiteProjections) -> TypeGuard[Described]:
    """Whether the projections say of what checkpoint they are."""
    return hasattr(adapter, "digest")


def check_adapter(adapter: object) -> None:
    """Raise TypeError for what is no adapter, such as the name of its file."""
    if not callable(getattr(adapter, "project_sites", None)):
        raise TypeError(
            f"adapter: expected what load_image_adapter gives, got {type(adapter).__name__}"
        )


class ImageTokens(Protocol):
    """Image tokens, as ``get_image_embeds`` gives them."""

    @property
    def cond(self) -> Tensor:
        """(pictures, tokens, context)."""
        ...

    @property
    def uncond(self) -> Tensor | None:
        """(1 or pictures, tokens, context), for rows that are not cond."""
        ...


Embeds = ImageTokens | Sequence[Tensor | None]
"""Image tokens, or a pair (cond, uncond) of tensors."""


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

    def folds(self, shared_softmax: bool) -> bool:
        """Whether keys or values change; else the branch's output alone is multiplied."""
        return self.keys or self.mean or shared_softmax

    def fold(
        self, k: Tensor, v: Tensor, weight: Tensor, shared_softmax: bool, own_tokens: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Fold effective weights (rows, 1, 1) into keys and values (rows, tokens, channels).

        A row may hold several reference pictures of `own_tokens` each; 0: it holds one.
        """
        if self.keys:
            k = _at_least_float(k) * weight
        if self.mean:
            each = _at_least_float(v).unflatten(1, (-1, own_tokens or v.shape[1]))
            mean = each.mean(dim=2, keepdim=True)
            v = ((each - mean) + mean * weight[..., None]).flatten(1, 2)
        elif shared_softmax:  # in a shared softmax nothing multiplies one branch's output
            v = _at_least_float(v) * weight
        return k, v


def _at_least_float(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


SCALINGS = {
    "V only": Scaling(keys=False, mean=False, penalty=False),
    "K+V": Scaling(keys=True, mean=False, penalty=False),
    "K+V w/ C penalty": Scaling(keys=True, mean=False, penalty=True),
    "K+mean(V) w/ C penalty": Scaling(keys=True, mean=True, penalty=True),
}


@dataclass(frozen=True, eq=False)
class KeysValues:
    """The image keys and values of every layer: rows for pictures, then rows for negatives."""

    pictures: int
    negatives: int
    parts: tuple[Part | TrainablePart, ...]
    own_tokens: int = 0
    """Tokens of each of the reference pictures that a row joins; 0: a row is one of them."""

    @classmethod
    def project(cls, adapter: SiteProjections, embeds: Embeds) -> KeysValues:
        """Project image tokens by the adapter's weights.

        Once for all steps; at each call where tokens or weights require a gradient.
        """
        check_adapter(adapter)
        cond, uncond = _tokens(embeds)
        metadata = getattr(embeds, "metadata", {})
        made_by = metadata.get("digest")
        if made_by and is_described(adapter) and made_by != adapter.digest:
            raise ValueError(
                f"embeds: made by another adapter ({metadata.get('kind')}, {made_by[:12]}) "
                f"than the one given ({adapter.kind}, {adapter.digest[:12]})"
            )
        own = getattr(adapter, "tokens", 0)
        if own and any(t is not None and t.shape[1] % own for t in (cond, uncond)):
            own = 0
        with torch.inference_mode(False), torch.enable_grad():
            # What is not to be trained stays as it is, whatever becomes of the caller's tensor.
            cond = _own(cond)
            uncond = None if uncond is None else _own(uncond)
            if uncond is None or cond.shape[1] != uncond.shape[1]:
                negative = None if uncond is None else _project(adapter, uncond)
                return replace(cls._of(_project(adapter, cond), negative), own_tokens=own)
            projected = adapter.project_sites(torch.cat([cond, uncond]))
        make_layer = _projecting(adapter, cond, uncond) if _trainable(projected) else None
        layers = own_copies("adapter", projected)
        check_finite("adapter", layers)
        part = make_part(0, layers, make_layer)
        return cls(len(cond), len(uncond), (part,), own)._valid()

    @classmethod
    def from_lists(cls, cond: Sequence[Any], uncond: Sequence[Any] | None) -> KeysValues:
        """Take ready keys and values: for each layer a pair of (rows, tokens, channels)."""
        negative = None if uncond is None else _Rows(uncond, _taking(uncond))
        return cls._of(_Rows(cond, _taking(cond)), negative)

    @classmethod
    def _of(cls, cond: _Rows, uncond: _Rows | None) -> KeysValues:
        positive = own_copies("cond", cond.layers)
        check_finite("cond", positive)
        pictures = len(positive[0][0])
        make_cond = cond.make_layer if _trainable(cond.layers) else None
        if uncond is None:
            return cls(pictures, 0, (make_part(0, positive, make_cond),))._valid()
        negative = own_copies("uncond", uncond.layers)
        check_finite("uncond", negative)
        negatives = len(negative[0][0])
        if [k.shape[2] for k, _ in positive] != [k.shape[2] for k, _ in negative]:
            raise ValueError(
                f"uncond: expected {len(positive)} layers of the same channels as cond, "
                f"got {len(negative)} layers"
            )
        make_uncond = uncond.make_layer if _trainable(uncond.layers) else None
        same = all(p[0].shape[1] == n[0].shape[1] for p, n in zip(positive, negative, strict=True))
        if not same:
            parts = (
                make_part(0, positive, make_cond),
                make_part(pictures, negative, make_uncond),
            )
            return cls(pictures, negatives, parts)._valid()
        make_both = None
        if make_cond or make_uncond:
            make_both = _joining(
                make_cond or positive.__getitem__, make_uncond or negative.__getitem__
            )
        with torch.inference_mode(False), torch.no_grad():
            join = _joining(positive.__getitem__, negative.__getitem__)
            layers = tuple(join(index) for index in range(len(positive)))
        return cls(pictures, negatives, (make_part(0, layers, make_both),))._valid()

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
        return self.parts[0].channels

    @property
    def tokens(self) -> int:
        """Image tokens of a picture."""
        return self.parts[0].tokens

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which they are kept."""
        return self.parts[0].dtype

    @property
    def requires_grad(self) -> bool:
        """Whether any come from tensors that do."""
        return any(part.requires_grad for part in self.parts)

    def check(self, table: LayerTable) -> None:
        """Raise ValueError, naming both, unless the layers are those of the table."""
        if self.channels == table.channels:
            return
        if len(self.channels) != len(table):
            raise ValueError(
                f"adapter: expected one for the {len(table)} layers of this UNet "
                f"({table.family}), got one for {len(self.channels)} ({family_of(self.channels)})"
            )
        for layer, channels in zip(table, self.channels, strict=True):
            if layer.channels != channels:
                raise ValueError(
                    f"adapter: expected {layer.channels} channels for this UNet's layer "
                    f"{layer.index} ({layer.name}), got {channels}"
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


def _own(tokens: Tensor) -> Tensor:
    return tokens if tokens.requires_grad else tokens.clone()


def _project(adapter: SiteProjections, tokens: Tensor) -> _Rows:
    return _Rows(adapter.project_sites(tokens), _projecting(adapter, tokens))


def _tokens(embeds: Embeds) -> tuple[Tensor, Tensor | None]:
    cond: Any
    uncond: Any
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
        if not tokens.is_floating_point() or not bool(tokens.detach().isfinite().all()):
            got = "values that are not finite" if tokens.is_floating_point() else tokens.dtype
            raise ValueError(f"embeds: expected {name} of finite floats, got {got}")
    return cond, uncond


class _Rows(NamedTuple):
    """Keys and values of some rows as they came, and what makes those of one layer anew."""

    layers: Sequence[Any]
    make_layer: MakeLayer


def _trainable(layers: Sequence[Any]) -> bool:
    return any(tensor.requires_grad for pair in layers for tensor in pair)


def _projecting(adapter: SiteProjections, *tokens: Tensor) -> MakeLayer:
    def make_layer(index: int) -> tuple[Tensor, Tensor]:
        rows = torch.cat(tokens) if len(tokens) > 1 else tokens[0]
        if hasattr(adapter, "project_site"):
            return adapter.project_site(index, rows)
        return adapter.project_sites(rows)[index]

    return make_layer


def _taking(pairs: Sequence[Any]) -> MakeLayer:
    pairs = tuple(pairs)

    def make_layer(index: int) -> tuple[Tensor, Tensor]:
        (k, v), (first, _) = pairs[index], pairs[0]
        return k.to(first.device, first.dtype), v.to(first.device, first.dtype)

    return make_layer


def _joining(first: MakeLayer, second: MakeLayer) -> MakeLayer:
    def make_layer(index: int) -> tuple[Tensor, Tensor]:
        k, v = (torch.cat([p, n.to(p)]) for p, n in zip(first(index), second(index), strict=True))
        return k, v

    return make_layer


def _equal(a: Part | TrainablePart, b: Part | TrainablePart) -> bool:
    if (a.first, a.rows, a.channels) != (b.first, b.rows, b.channels):
        return False
    pairs = zip(a.layers, b.layers, strict=True)
    return all(
        x.dtype == y.dtype and x.shape == y.shape and torch.equal(x.cpu(), y.cpu())
        for left, right in pairs
        for x, y in zip(left, right, strict=True)
    )
