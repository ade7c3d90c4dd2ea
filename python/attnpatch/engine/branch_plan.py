# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""All image branches of a stack in calls of one layout and time, over all layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from attnpatch.engine.branches import Branches
from attnpatch.engine.cache import Cache, upload, where
from attnpatch.engine.edits import Branch
from attnpatch.engine.joint_layers import Table
from attnpatch.engine.site import Call, Crop, Site

__all__ = ["BranchPlan"]


class BranchPlan:
    """Which branches act at which layer, with their rows and weights on every device asked for.

    Parameters
    ----------
    table : LayerTable
        The model's layers.
    branches : iterable of Branch
        Those of all patches, in the order of the stack.
    masks : Cache
        Of masks at a grid, which outlive a plan.
    """

    def __init__(self, table: Table, branches: Iterable[Branch], masks: Cache) -> None:
        self._branches: list[Branch] = sorted(branches, key=lambda b: not b.shared_softmax)
        self._table = table
        self._masks = masks
        self._active: list[tuple[int, ...]] = []  # for each layer the branches that act there
        self._first: list[int] = []  # for each layer where its weights begin
        weights: list[tuple[float, ...]] = []
        for layer in range(len(table)):
            here = [(i, branch.weights(layer)) for i, branch in enumerate(self._branches)]
            acting = [(i, w) for i, w in here if w is not None]
            for i, w in acting:
                least = min(w, default=0.0)
                if self._branches[i].shared_softmax and least < 0:
                    raise ValueError(
                        f"weight: expected at least 0 in a shared softmax, got {least}"
                    )
            self._active.append(tuple(i for i, _ in acting))
            self._first.append(len(weights))
            weights += [w for _, w in acting]
        self._weights = torch.tensor(weights, dtype=torch.float32, device="cpu")
        self._rows = torch.tensor([branch.rows for branch in self._branches], device="cpu")
        self._uploads = Cache(size=4)
        self._sites = Cache(size=4 * len(table))
        self._masked = self._any_at_layers(lambda branch: branch.mask is not None)
        self._trained = self._any_at_layers(lambda branch: branch.requires_grad)
        self._shared = self._any_at_layers(lambda branch: branch.shared_softmax)

    def _any_at_layers(self, holds: Any) -> list[bool]:
        return [any(holds(self._branches[i]) for i in active) for active in self._active]

    def acts(self, index: int) -> bool:
        """Whether a branch acts at a layer."""
        return bool(self._active[index])

    def masked(self, index: int) -> bool:
        """Whether a branch at a layer has a mask."""
        return self._masked[index]

    def shares_softmax(self, index: int) -> bool:
        """Whether a branch at a layer shares the text's softmax."""
        return self._shared[index]

    def at(self, site: Site, dtype: torch.dtype, device: torch.device) -> Branches:
        """Return the branches at a site where some act, for queries of this dtype and device."""
        index = site.layer.index
        if self._trained[index]:  # in each call of its values and its graph
            return self._make(site, dtype, device)
        grid, parts = (site.grid, _parts(site.call)) if self._masked[index] else (None, None)
        key = (index, dtype, where(device), grid, parts)
        return self._sites.get(key, lambda: self._make(site, dtype, device))

    def prepare(self, site: Site, dtype: torch.dtype, device: torch.device) -> None:
        """Make what ``at`` gives at a site, but for what requires a gradient."""
        if not self._trained[site.layer.index]:
            self.at(site, dtype, device)

    def _make(self, site: Site, dtype: torch.dtype, device: torch.device) -> Branches:
        index = site.layer.index
        if self._table[index] != site.layer:
            raise ValueError(f"site: {site.layer!r} is not of the table that the stack is bound to")
        active = self._active[index]
        branches = [self._branches[i] for i in active]
        rows, weights = self._uploads.get(
            where(device),
            lambda: (upload(self._rows, device).unbind(0), upload(self._weights, device)),
        )
        pairs = [branch.keys_values(index, dtype, device) for branch in branches]
        first = self._first[index]
        return Branches(
            k=[k for k, _ in pairs],
            v=[v for _, v in pairs],
            rows=[rows[i] for i in active],
            weights=weights[first : first + len(active)],
            masks=self._mask(branches, site, device) if self._masked[index] else None,
            shared_softmax=sum(branch.shared_softmax for branch in branches),
            requires_grad=self._trained[index],
        )

    def _mask(self, branches: Sequence[Branch], site: Site, device: torch.device) -> Tensor:
        masks = tuple((branch.mask, branch.mask_rows) for branch in branches)
        grid, parts = site.grid, _parts(site.call)
        if any(mask is not None and mask.requires_grad for mask, _ in masks):
            return _stack_masks(masks, grid, parts, device)
        key = (masks, grid, parts, where(device))
        return self._masks.get(key, lambda: upload(_stack_masks(masks, grid, parts), device))


_Part = tuple[Crop | None, tuple[int, int]]
"""Which part of the picture a row shows, and the latent's height and width."""


def _parts(call: Call) -> tuple[_Part, ...] | None:
    """Return the part that each row shows, where any shows one; None: all show all."""
    return tuple((crop, call.latent) for crop in call.crops) or None


def _stack_masks(
    masks: Sequence[tuple[Any, tuple[int, ...]]],
    grid: tuple[int, int],
    parts: Sequence[_Part] | None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Masks (branches, 1 or batch, tokens): 1 where all rows of the batch share theirs."""
    tokens = grid[0] * grid[1]
    stacked = []
    for mask, pictures in masks:
        if mask is None:
            stacked.append(torch.ones(1, tokens, device="cpu"))
            continue
        rows = list(zip(pictures, parts or (None,) * len(pictures), strict=True))
        if len(set(rows)) == 1:
            rows = rows[:1]
        at_rows = [mask.at(grid, *(part or ()))[picture] for picture, part in rows]
        stacked.append(torch.stack(at_rows))
    batch = max(len(mask) for mask in stacked)
    return torch.stack([mask.to(device).expand(batch, tokens) for mask in stacked])
