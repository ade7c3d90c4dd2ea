# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The stage of self-attention in which tokens are reduced, by a plan for the grid at hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeGuard

import torch
from torch import Tensor

from attnpatch.engine.edits import Inner
from attnpatch.engine.site import Site

__all__ = ["Grid", "Plan", "ReductionWrapper"]

Grid = tuple[int, int]


class Plan(Protocol):
    """What is done on one token grid."""

    def reduce(self, k_input: Tensor, v_input: Tensor) -> tuple[Tensor, Tensor]:
        """Give what keys and values are projected from, of (batch, tokens of the grid, channels).

        The same tensor twice where both are the same.
        """
        ...

    def attend(self, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """Attend from q (batch, heads, N, size); others may have changed what the plan expects."""
        ...


class KeepingPlan(Plan, Protocol):
    """A plan that keeps tensors on a device."""

    def prepare(self, device: torch.device) -> None:
        """Make them."""
        ...


def _keeps(plan: Plan | None) -> TypeGuard[KeepingPlan]:
    return hasattr(plan, "prepare")


class ReductionWrapper:
    """See ``AttentionWrapper``; it holds a plan and nothing of a running call.

    Parameters
    ----------
    make
        Gives the plan for a grid; None: nothing is to be done on such a grid.
    grid
        The grid to expect; another one is planned for when it comes.
    warn
        Called with the site and the tokens where they do not fill its grid.
    """

    __slots__ = ("_grid", "_make", "_plan", "_warn")
    reduces = True
    needs_all_tokens = False
    needs_grid = False  # it sees for itself whether tokens fill it

    def __init__(
        self,
        make: Callable[[Grid], Plan | None],
        grid: Grid,
        warn: Callable[[Site, int], None],
    ) -> None:
        self._make = make
        self._grid = grid
        self._plan = make(grid)
        self._warn = warn

    @property
    def acts(self) -> bool:
        """Whether there is anything to be done on the grid to expect."""
        return self._plan is not None

    def fits(self, site: Site, tokens: int) -> bool:
        """Whether so many tokens fill the grid; where not, they are another patch's: it warns."""
        if site.grid[0] * site.grid[1] == tokens:
            return True
        self._warn(site, tokens)
        return False

    def prepare(self, site: Site, dtype: torch.dtype, device: torch.device) -> None:
        """See ``AttentionWrapper.prepare``."""
        plan = self._at(site.grid)
        if _keeps(plan):
            plan.prepare(device)

    def reduce(self, site: Site, k_input: Tensor, v_input: Tensor) -> tuple[Tensor, Tensor]:
        """See ``AttentionWrapper.reduce``; tokens that do not fill the grid stay."""
        plan = self._at(site.grid)
        if plan is None or not all(self.fits(site, x.shape[1]) for x in (k_input, v_input)):
            return k_input, v_input
        return plan.reduce(k_input, v_input)

    def attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """See ``AttentionWrapper.attend``."""
        plan = self._at(site.grid)
        if plan is None:
            return inner(q, k, v)
        tokens = site.grid[0] * site.grid[1]
        if q.shape[2] != tokens:
            if k.shape[2] in (q.shape[2], tokens):  # else they were reduced before
                self._warn(site, q.shape[2])
            return inner(q, k, v)
        return plan.attend(q, k, v, inner)

    def _at(self, grid: Grid) -> Plan | None:
        return self._plan if grid == self._grid else self._make(grid)
