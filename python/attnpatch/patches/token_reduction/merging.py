# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Token merging: tokens that look alike attend, and are attended to, as one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from attnpatch.engine.edits import Inner
from attnpatch.engine.heads import join_heads, split_heads
from attnpatch.patches.token_reduction.parameters import (
    flag,
    number,
    seed_number,
    whole_number,
)
from attnpatch.patches.token_reduction.patch import CallKey, Place, TokenReduction, draw
from attnpatch.patches.token_reduction.stage import Grid, Plan

__all__ = ["TokenMerging"]

_SCORES = 1 << 24  # of the similarities that are held at once, in numbers


@dataclass(frozen=True, kw_only=True, repr=False)
class TokenMerging(TokenReduction):
    """Tokens with similar keys are merged before self-attention, and parted again after it.

    One token of every cell of the grid is a destination; the others are its sources. Of these the
    `ratio` · N that are most similar to a destination are merged into it: their queries, keys and
    values become one mean. After attention every merged token gets its destination's output.

    Parameters
    ----------
    ratio
        Part of all tokens that is merged, 0 to 1; 0.5 by default. At most the sources are: 3/4 of
        all with cells of 2 × 2.
    stride
        Rows and columns of a cell, 2 to 8; 2.
    max_depth
        How deep layers are merged, 1 to 4: 1 (the default) only those of the width at which the
        model first attends, 2 also those of twice that width, and so on.
    regular
        Take the first token of every cell rather than one drawn anew at every layer and step.
    seed
        Decides on what is drawn, with the timestep and the layer.

    Raises
    ------
    TypeError, ValueError
        If a parameter is out of its range; the message names it.

    Notes
    -----
    Bolya and Hoffman 2023, "Token Merging for Fast Stable Diffusion", arXiv 2303.17604. Similarity
    is that of keys, as in Bolya et al. 2022, arXiv 2210.09461; merging them after their projection
    is the same as before it, for both are linear.
    """

    type_name: ClassVar[str] = "token_merging"

    ratio: float = number(0.5, 0.0, 1.0, 0.01, "Part of all tokens that is merged into others.")
    stride: int = whole_number(2, 2, 8, 1, "Rows and columns of a cell; one token of each stays.")
    max_depth: int = whole_number(
        1, 1, 4, 1, "How deep layers are merged, counted from the model's first attention."
    )
    regular: bool = flag("Keep the first token of every cell rather than one that is drawn anew.")
    seed: int = seed_number()

    @property
    def time_dependent(self) -> bool:
        """Whether what it does depends on the timestep."""
        return not self.regular

    @property
    def reduces_inputs(self) -> bool:
        """Whether keys and values are projected from fewer tokens; else they are reduced after."""
        return False

    def skips(self, place: Place) -> str | None:
        """Say why it never acts at a layer; None where it may act."""
        if self.ratio == 0:
            return "its ratio is 0"
        return place.deeper_than(self.max_depth)

    def plan(self, place: Place, call_key: CallKey, grid: Grid) -> Plan | None:
        """See ``TokenReduction.plan``."""
        count = int(grid[0] * grid[1] * self.ratio)
        chosen = None if self.regular else draw(self.seed, call_key, place).getrandbits(63)
        cells = Cells(grid, self.stride, chosen)
        return MergePlan(cells, min(count, cells.sources)) if count and cells.sources else None


class Cells(NamedTuple):
    """A grid in cells, and which token of each is its destination."""

    grid: Grid
    stride: int
    chosen: int | None
    """The seed of what is drawn; None: the first token of each cell."""

    @property
    def counts(self) -> Grid:
        """Rows and columns of cells; what is left at the end of the grid are sources."""
        return max(1, self.grid[0] // self.stride), max(1, self.grid[1] // self.stride)

    @property
    def sources(self) -> int:
        """How many tokens are no destination."""
        return self.grid[0] * self.grid[1] - self.counts[0] * self.counts[1]


@lru_cache(maxsize=64)
def _split(cells: Cells, device: torch.device) -> tuple[Tensor, Tensor]:
    """Give the indices of sources and of destinations, both int64."""
    (height, width), (down, across) = cells.grid, cells.counts
    tall, wide = min(cells.stride, height), min(cells.stride, width)
    within = torch.zeros(down * across, dtype=torch.int64, device="cpu")
    if cells.chosen is not None:
        generator = torch.Generator("cpu").manual_seed(cells.chosen)
        within = torch.randint(tall * wide, (down * across,), generator=generator, device="cpu")
    cell = torch.arange(down * across, device="cpu")
    row = cell // across * tall + within // wide
    destinations = row * width + cell % across * wide + within % wide
    others = torch.ones(height * width, dtype=torch.bool, device="cpu")
    others[destinations] = False
    return others.nonzero()[:, 0].to(device), destinations.to(device)


@dataclass(frozen=True, slots=True)
class MergePlan:
    """Merges `count` tokens. See ``Plan``; all happens between the projections."""

    cells: Cells
    count: int

    def prepare(self, device: torch.device) -> None:
        """See ``KeepingPlan.prepare``."""
        self._split(device)

    def _split(self, device: torch.device) -> tuple[Tensor, Tensor]:
        with torch.inference_mode(False):
            return _split(self.cells, device)

    def reduce(self, k_input: Tensor, v_input: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Plan.reduce``: nothing yet."""
        return k_input, v_input

    def attend(self, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """See ``Plan.attend``."""
        if (k.shape[0], k.shape[2]) != (q.shape[0], q.shape[2]):
            return inner(q, k, v)  # another patch has changed the keys
        heads = q.shape[1]
        merge, part = self.match(join_heads(k))
        merged = (split_heads(merge(join_heads(x)), heads) for x in (q, k, v))
        return split_heads(part(join_heads(inner(*merged))), heads)

    def match(self, k: Tensor) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
        """Find which tokens become one; give what merges tokens (batch, N, C), and what parts them.

        Parameters
        ----------
        k
            Keys (batch, N, channels).
        """
        sources, destinations = self._split(k.device)
        best, into = _most_similar(F.normalize(k, dim=-1), sources, destinations)
        order = best.argsort(dim=-1, descending=True)
        merged, kept = order[:, : self.count], order[:, self.count :]
        into = into.gather(1, merged)
        batch, tokens, _ = k.shape
        merged, kept = sources[merged], sources[kept]

        def rows(tokens: Tensor, index: Tensor) -> Tensor:
            return tokens.gather(1, index[:, :, None].expand(-1, -1, tokens.shape[2]))

        def merge(x: Tensor) -> Tensor:
            mean = x[:, destinations].scatter_reduce(
                1, into[:, :, None].expand(-1, -1, x.shape[2]), rows(x, merged), "mean"
            )
            return torch.cat([rows(x, kept), mean], dim=1)

        def part(out: Tensor) -> Tensor:
            near = kept.shape[1]
            whole = out.new_empty(batch, tokens, out.shape[2])
            whole[:, destinations] = out[:, near:]
            for index, values in ((kept, out[:, :near]), (merged, rows(out[:, near:], into))):
                whole.scatter_(1, index[:, :, None].expand_as(values), values)
            return whole

        return merge, part


def _most_similar(k: Tensor, sources: Tensor, destinations: Tensor) -> tuple[Tensor, Tensor]:
    """For each source the similarity to its nearest destination, and which that is."""
    targets = k[:, destinations].mT
    step = max(1, _SCORES // (k.shape[0] * targets.shape[2]))
    best = [(k[:, part] @ targets).max(dim=-1) for part in sources.split(step)]
    return torch.cat([x.values for x in best], 1), torch.cat([x.indices for x in best], 1)
