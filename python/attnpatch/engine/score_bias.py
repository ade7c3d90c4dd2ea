# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""More or less attention to chosen keys: what is added to scores before the softmax."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from attnpatch.engine.cache import Cache, upload, where
from attnpatch.engine.joint_layers import Table
from attnpatch.engine.site import Site
from attnpatch.ops.biased_attention import biased_attention
from attnpatch.ops.plain.biased_attention import padded, unpadded

__all__ = ["BiasPlan", "BiasTerm", "Biases", "HostAttention", "ScoreBias"]

MOST_TERMS = 16
"""How many different terms the operator takes."""


@dataclass(frozen=True, slots=True, eq=False)
class BiasTerm:
    """One term: ``queries[n] * keys[m]`` is added to the scores, and values are multiplied."""

    queries: Tensor
    """float32 (1 or batch, queries)."""
    keys: Tensor
    """float32 (1 or batch, keys)."""
    chosen: Tensor
    """bool (1 or batch, keys): those whose values are multiplied."""
    value_gains: Tensor | None = None
    """float32 (1 or batch, queries): by how much, for each query; None: not at all."""


class ScoreBias(Protocol):
    """One patch's part in the scores, in calls of one layout and time, over all layers."""

    def strength(self, layer: int) -> float | None:
        """How strong it is at a layer; None: not there. Layers of one strength share a term."""

    def term(self, site: Site, keys: int, strength: float) -> BiasTerm | None:
        """Return its term on the CPU at a site with so many keys; None: nothing is changed."""


class HostAttention(Protocol):
    """A host's own attention (batch, heads, tokens, head size) that takes a scale."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> Tensor:
        """Attend; `scale` None: head size ** -0.5."""


class BiasPlan:
    """Which biases act at which layer, on every device asked for.

    Parameters
    ----------
    table : LayerTable or JointTable
        The model's layers.
    biases : iterable of ScoreBias
        Those of all patches, in the order of the stack.
    """

    def __init__(self, table: Table, biases: Iterable[ScoreBias]) -> None:
        self._biases = tuple(biases)
        self._strengths = [
            tuple(bias.strength(layer) for bias in self._biases) for layer in range(len(table))
        ]
        self._sites = Cache(size=64)

    def acts(self, index: int) -> bool:
        """Whether a bias acts at a layer."""
        return any(strength is not None for strength in self._strengths[index])

    def at(self, site: Site, keys: int, device: torch.device) -> Biases | None:
        """Return the biases at a site with so many keys; None: they change nothing there."""
        strengths = self._strengths[site.layer.index]
        call = site.call
        key = (
            *(strengths, site.queries, site.keys, keys, call.layout, call.crops, call.latent),
            where(device),
        )
        return self._sites.get(key, lambda: self._make(site, keys, strengths, device))

    def _make(
        self, site: Site, keys: int, strengths: Sequence[float | None], device: torch.device
    ) -> Biases | None:
        pairs = zip(self._biases, strengths, strict=True)
        terms = [b.term(site, keys, s) for b, s in pairs if s is not None]
        kept = [term for term in terms if term is not None]
        return Biases(kept, device) if kept else None


class Biases:
    """The biases at one site, as the operator ``biased_attention`` takes them.

    Parameters
    ----------
    terms : sequence of BiasTerm
        At least one.
    device : torch.device
        Where they are used.

    Raises
    ------
    ValueError
        Where there are more terms than the operator takes.
    """

    __slots__ = ("_gains", "_key_bias", "_query_bias")

    def __init__(self, terms: Sequence[BiasTerm], device: torch.device) -> None:
        merged = _merge(terms)
        if len(merged) > MOST_TERMS:
            raise ValueError(
                f"key gains: expected at most {MOST_TERMS} at one layer that differ in the rows "
                f"they are for, got {len(merged)}"
            )
        self._query_bias = upload(_side_by_side([queries for queries, _ in merged]), device)
        self._key_bias = upload(_side_by_side([keys for _, keys in merged]), device)
        # Values multiplied alike for all queries of a row, or (factors, what is added, for whom).
        self._gains = [
            _value_gain(term.value_gains, term.chosen, device)
            for term in terms
            if term.value_gains is not None
        ]

    def check(self, site: Site, rows: int, queries: int) -> None:
        """Raise ValueError where so many rows and queries do not fit."""
        if rows != site.call.batch:
            raise ValueError(f"q: {rows} rows, but the call has a batch of {site.call.batch}")
        if queries != self._query_bias.shape[1]:
            raise ValueError(
                f"q: {queries} tokens at {site.layer.name}, but a key gain was made for the "
                f"{self._query_bias.shape[1]} of {', '.join(site.queries.names)}"
            )

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        host_attention: HostAttention | None = None,
        scale: float | None = None,
    ) -> Tensor:
        """Attend with the biases.

        Parameters
        ----------
        q, k, v : Tensor
            (batch, heads, N, size) and twice (batch, heads of k, M, size).
        host_attention : callable or None
            What computes attention; None: the operator of ours.
        scale : float or None
            Of the logits; None: size ** -0.5.
        """
        added = []
        for factor, share in self._gains:
            if share is None:
                v = v * factor.to(v.dtype)
            else:
                added.append((v * factor.to(v.dtype), share))
        out = self._attend(q, k, v, host_attention, scale)
        for extra, share in added:
            out = out + share.to(out.dtype) * self._attend(q, k, extra, host_attention, scale)
        return out

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        host_attention: HostAttention | None,
        scale: float | None,
    ) -> Tensor:
        if host_attention is None:
            return biased_attention(q, k, v, self._query_bias, self._key_bias, scale=scale)
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        wide = padded(q, k, v, self._query_bias, self._key_bias, scale)
        return unpadded(host_attention(*wide, scale=scale), self._query_bias, v.shape[-1])


def _merge(terms: Sequence[BiasTerm]) -> list[tuple[Tensor, Tensor]]:
    """Return pairs (queries, keys): terms of the same queries become one."""
    merged: list[tuple[Tensor, Tensor]] = []
    for term in terms:
        for index, (queries, keys) in enumerate(merged):
            if torch.equal(queries, term.queries):
                merged[index] = (queries, keys + term.keys)
                break
        else:
            merged.append((term.queries, term.keys))
    return merged


def _side_by_side(factors: Sequence[Tensor]) -> Tensor:
    """Join factors (1 or batch, tokens) to (1 or batch, tokens, terms)."""
    return torch.stack(torch.broadcast_tensors(*factors), dim=-1)


def _value_gain(
    gains: Tensor, chosen: Tensor, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Return factors (1 or batch, 1, keys, 1), and whom they are for (…, 1, queries, 1).

    Where all queries of a row have one gain, values are multiplied by it: nobody need be named.
    Else the factors choose the values of which each query takes its gain less 1 in addition.
    """
    if bool((gains == gains[:, :1]).all()):
        factors = torch.where(chosen, gains[:, :1], 1.0)
        return upload(factors[:, None, :, None].contiguous(), device), None
    factors = chosen.float()[:, None, :, None].contiguous()
    return upload(factors, device), upload((gains - 1.0)[:, None, :, None].contiguous(), device)
