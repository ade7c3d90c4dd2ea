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
        if not kept:
            return None
        blind = _count_blind(kept)
        if blind:
            raise ValueError(
                f"key gains: expected tokens that see some of the {keys} keys each, got {blind} at "
                f"{site.layer.name} from which gains of 0 hide all of them; give a text that is "
                "seen everywhere, gains above 0, or masks without gaps between them"
            )
        return Biases(kept, device)


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

    __slots__ = ("_alike", "_apart", "_key_bias", "_query_bias")

    def __init__(self, terms: Sequence[BiasTerm], device: torch.device) -> None:
        merged = _merge(terms)
        if len(merged) > MOST_TERMS:
            raise ValueError(
                f"key gains: expected at most {MOST_TERMS} at one layer that differ in the rows "
                f"they are for, got {len(merged)}"
            )
        self._query_bias = upload(_side_by_side([queries for queries, _ in merged]), device)
        self._key_bias = upload(_side_by_side([keys for _, keys in merged]), device)
        alike, apart = _value_gains(terms)
        self._alike = None if alike is None else upload(alike[:, None, :, None], device)
        self._apart = [
            (upload(of_keys[:, None, :, None], device), upload(share[:, None, :, None], device))
            for of_keys, share in apart
        ]

    def check(self, site: Site, rows: int, queries: int) -> None:
        """Raise ValueError where so many rows and queries do not fit."""
        site.check_rows(rows)
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
        if self._alike is not None:
            v = v * self._alike.to(v.dtype)
        out = self._attend(q, k, v, host_attention, scale)
        for of_keys, share in self._apart:
            extra = self._attend(q, k, v * of_keys.to(v.dtype), host_attention, scale)
            out = out + share.to(out.dtype) * extra
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


def _count_blind(terms: Sequence[BiasTerm]) -> int:
    """Return the largest number of queries in a row from which the terms hide all keys."""
    gone = [(term.keys.isneginf(), term.queries.isneginf().any()) for term in terms]
    hidden = [
        keys | ((term.keys > 0) & some) for term, (keys, some) in zip(terms, gone, strict=True)
    ]
    if not bool(torch.stack(torch.broadcast_tensors(*hidden)).any(0).all(1).any()):
        return 0  # a key is left to all
    seen = torch.tensor(True, device="cpu")
    for term in terms:
        queries, keys = term.queries[:, :, None], term.keys[:, None, :]
        taken = (keys.isneginf() & (queries > 0)) | (queries.isneginf() & (keys > 0))
        seen = seen & ~taken
    return int((~seen.any(2)).sum(1).max())


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


def _value_gains(
    terms: Sequence[BiasTerm],
) -> tuple[Tensor | None, list[tuple[Tensor, Tensor]]]:
    """Return by what values are multiplied: alike for all queries of a row, and beside that.

    Where all queries of a row have one gain, it is a factor of each key, (1 or batch, keys). Others
    are pairs (chosen keys, shares of queries), float32: beside attention to all values a query
    takes its share of attention to those of these keys. Where terms choose the same key its gains
    are multiplied: (1 + a)(1 + b) = 1 + a + b + a b.
    """
    alike: Tensor | None = None
    apart: list[tuple[Tensor, Tensor]] = []
    for term in terms:
        gains, chosen = term.value_gains, term.chosen
        if gains is None:
            continue
        if bool((gains == gains[:, :1]).all()):
            factors = torch.where(chosen, gains[:, :1], 1.0)
            alike = factors if alike is None else alike * factors
            continue
        share = gains - 1.0
        both = [(keys & chosen, before * share) for keys, before in apart]
        for keys, added in [(chosen, share), *both]:
            for index, (same, before) in enumerate(apart):
                if torch.equal(same, keys):
                    apart[index] = same, before + added
                    break
            else:
                if bool(keys.any()):
                    apart.append((keys, added))
    return alike, [(keys.float(), share.contiguous()) for keys, share in apart]
