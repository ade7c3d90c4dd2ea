# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What self-attention guidance records of a sampling step: how much attention each token gets."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from attnpatch.engine.site import Site

__all__ = ["Area", "AttentionRecord", "CallRecord", "Recorded"]


class Area(NamedTuple):
    """A rectangle of the latent, in its own pixels; it may wrap around the latent's end."""

    top: int
    left: int
    height: int
    width: int


class Recorded(NamedTuple):
    """What some rows of one call left at one layer."""

    source: Hashable
    """Which conditioning the rows were for, where a step has several."""
    places: tuple[int, ...] | None
    """Which samples of the batch the rows are; None: the next ones."""
    areas: tuple[Area | None, ...] | None
    """Which parts of the latents they show; None: what their conditioning acts on."""
    layer: int
    grid: tuple[int, int]
    column_mean: Tensor
    """float32 (rows, tokens): 1 where a token gets as much attention as the others on average."""


class AttentionRecord:
    """The column means of the attention maps of one step, from all of its UNet calls.

    A host makes one for each step and hands it to the step's calls. It may be filled by several
    calls: cond and uncond may come apart, a batch in pieces, several conditionings each in turn.

    Parameters
    ----------
    role
        Which rows are recorded: 1 (uncond), or 0 where a host has cond alone.
    """

    rows: tuple[int, ...] | None = None

    def __init__(self, role: int = 1) -> None:
        self.role = role
        self.entries: list[Recorded] = []

    def add(self, site: Site, rows: Sequence[int], column_mean: Tensor) -> None:
        """Keep what a layer found for rows of the running call."""
        CallRecord(self).add(site, rows, column_mean)

    def of(self, sources: Collection[Hashable]) -> AttentionRecord:
        """Return what rows of these conditionings left, and rows of which it is not told."""
        kept = AttentionRecord(self.role)
        kept.entries = [e for e in self.entries if e.source is None or e.source in sources]
        return kept

    def __bool__(self) -> bool:
        return bool(self.entries)

    def saliency(
        self,
        batch: int,
        latent: tuple[int, int],
        areas: Mapping[Hashable, Area] | None = None,
    ) -> Tensor:
        """Put the column means together to maps over the latents.

        Parameters
        ----------
        batch
            How many latents there are.
        latent
            Their height and width.
        areas
            Where on the latent a conditioning acts; those not named act on all of it.

        Returns
        -------
        Tensor
            float32 (batch, h, w): of the token grid where one layer and conditioning fills it, else
            of the latent, the mean of all that reach a pixel; 0 where none does.

        Raises
        ------
        ValueError
            Where nothing was recorded.
        """
        if not self.entries:
            raise ValueError("record: nothing was recorded in this step")
        first = self.entries[0]
        places = self._places(batch)
        whole = first.source not in (areas or {}) and all(
            (entry.source, entry.areas, entry.layer, entry.grid)
            == (first.source, None, first.layer, first.grid)
            for entry in self.entries
        )
        if whole and sorted(sum(places, ())) == list(range(batch)):
            means = torch.cat([entry.column_mean for entry in self.entries])
            if sum(places, ()) != tuple(range(batch)):
                order = torch.tensor(sum(places, ()), device="cpu").argsort()
                means = means[order.to(means.device)]
            return means.unflatten(1, first.grid)
        return self._spread(places, batch, latent, areas or {})

    def _places(self, batch: int) -> list[tuple[int, ...]]:
        """For each entry the rows of the batch that its rows are."""
        seen: dict[tuple[Hashable, int], int] = {}
        by_entry = []
        for entry in self.entries:
            rows = len(entry.column_mean)
            key = (entry.source, entry.layer)
            start = seen.get(key, 0)
            seen[key] = start + rows
            by_entry.append(entry.places or tuple((start + row) % batch for row in range(rows)))
        return by_entry

    def _spread(
        self,
        places: Sequence[tuple[int, ...]],
        batch: int,
        latent: tuple[int, int],
        areas: Mapping[Hashable, Area],
    ) -> Tensor:
        device = self.entries[0].column_mean.device
        total, count = torch.zeros(2, batch, *latent, device=device)
        for entry, targets in zip(self.entries, places, strict=True):
            own = areas.get(entry.source, Area(0, 0, *latent))
            maps = entry.column_mean.unflatten(1, entry.grid)[:, None]
            for row, target in enumerate(targets):
                part = entry.areas[row] if entry.areas else None
                top, left, height, width = part or own
                shown = F.interpolate(maps[row, None], (height, width), mode="nearest")[0, 0]
                # What wraps goes on at the other side.
                rows = (torch.arange(height, device=device) + top) % latent[0]
                columns = (torch.arange(width, device=device) + left) % latent[1]
                total[target, rows[:, None], columns] += shown
                count[target, rows[:, None], columns] += 1
        return total / count.clamp_(min=1)


class CallRecord:
    """A step's record as one call fills it.

    Parameters
    ----------
    record
        The step's.
    sources
        For each chunk of the call, or each row of its batch, the conditioning that it is for;
        empty: one for all.
    places
        Which samples of the batch the rows of a chunk, or of the batch, are, where a call has a
        part of them. None: those that come after the last ones of their conditioning.
    areas
        For each row of the batch the part of the latent that it shows; None in the place of one:
        what its conditioning acts on. Empty: that for all.
    rows
        Which rows of the batch are recorded, if they are of the record's role; None: all.
    """

    def __init__(
        self,
        record: AttentionRecord,
        sources: Sequence[Hashable] = (),
        places: Sequence[int] | None = None,
        areas: Sequence[Area | None] = (),
        rows: Sequence[int] | None = None,
    ) -> None:
        self.record = record
        self.rows = None if rows is None else tuple(rows)
        self.sources = tuple(sources)
        self.places = None if places is None else tuple(places)
        self.areas = tuple(areas) if any(areas) else ()

    @property
    def role(self) -> int:
        """Which rows are recorded."""
        return self.record.role

    def add(self, site: Site, rows: Sequence[int], column_mean: Tensor) -> None:
        """Keep what a layer found for rows of this call."""
        call = site.call
        each = call.batch // len(self.sources) if self.sources else call.batch
        runs = [list(run) for _, run in groupby(rows, lambda row: row // each)]
        means = column_mean.split([len(run) for run in runs])
        for run, mean in zip(runs, means, strict=True):
            self.record.entries.append(
                Recorded(
                    self.sources[run[0] // each] if self.sources else None,
                    self.places and tuple(self.places[row % len(self.places)] for row in run),
                    (self.areas and tuple(self.areas[row] for row in run)) or None,
                    site.layer.index,
                    site.grid,
                    mean,
                )
            )
