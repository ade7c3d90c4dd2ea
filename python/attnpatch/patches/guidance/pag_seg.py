# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Guidance by degraded attention: PAG (arXiv 2403.17377) and SEG (arXiv 2408.00760)."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

import torch
from torch import Tensor

from attnpatch._core import LayerTable
from attnpatch.engine.cache import Cache, upload, where
from attnpatch.engine.edits import AttentionWrapper, Inner
from attnpatch.engine.heads import join_heads, split_heads
from attnpatch.engine.site import COND, Site
from attnpatch.engine.weights import number
from attnpatch.patches.guidance.guidance import BoundGuidance, Guidance
from attnpatch.patches.guidance.scale import Scale

_LAST_TIMESTEP = 999.0

__all__ = ["PerturbedAttentionGuidance", "SmoothedEnergyGuidance", "blur_tokens"]


@dataclass(frozen=True, repr=False)
class PerturbedAttentionGuidance(Guidance):
    """Perturbed-attention guidance: away from what comes out where each token sees itself alone.

    In its degraded pass, with the cond conditioning, the map of self-attention is the identity in
    some blocks: out = v (Ahn et al. 2024, arXiv 2403.17377).

    Parameters
    ----------
    scale
        How strong; the field uses 0 to 100. A number; a tensor of one for each sample; or a
        ``Weight`` with a curve over progress, samples, or both.
    blocks
        Where, as "m0,u0.4,d2.2-9"; see ``find_blocks``.
    start, end
        The part of sampling in which it is active, 0 to 1.
    rescale, rescale_mode
        Against too much contrast: 0 none, 1 all; "full", "partial" or "snf". See ``rescaled``.
    adaptive_scale
        Weakens it as sampling goes on, by max(0, 1 − adaptive_scale⁴ (1000 − t)) at timestep t:
        0 not at all, 1 to nothing. Steps in which nothing is left cost nothing.

    Raises
    ------
    TypeError, ValueError
        For numbers that make no sense, naming them.
    """

    scale: Scale = 3.0
    blocks: str = "m0"
    start: float = 0.0
    end: float = 1.0
    rescale: float = 0.0
    rescale_mode: str = "full"
    adaptive_scale: float = 0.0

    type_name: ClassVar[str] = "perturbed_attention_guidance"
    degrades: ClassVar[int] = COND

    def __post_init__(self) -> None:
        super().__post_init__()
        adaptive = number("adaptive_scale", self.adaptive_scale)
        if not 0 <= adaptive <= 1:
            raise ValueError(f"adaptive_scale: expected 0 to 1, got {adaptive}")
        object.__setattr__(self, "adaptive_scale", adaptive)

    def strength(self, progress: float | None) -> float:
        """Give the scale at a progress; see ``Guidance.strength``."""
        strength = super().strength(progress)
        if self.adaptive_scale == 0:
            return strength
        if progress is None:
            raise ValueError("progress: adaptive_scale needs it, and the host gave none")
        timestep = _LAST_TIMESTEP * (1 - progress)
        return strength * max(0.0, 1 - self.adaptive_scale**4 * (_LAST_TIMESTEP + 1 - timestep))

    def bind(self, table: LayerTable, index: int = 0) -> BoundPerturbedAttention:
        """Fit it to a UNet; see ``Patch.bind``."""
        return BoundPerturbedAttention(self, table, index)


@dataclass(frozen=True, repr=False)
class SmoothedEnergyGuidance(Guidance):
    """Smoothed-energy guidance: away from what comes out where tokens ask what neighbours ask.

    In its degraded pass, with the cond conditioning, the queries of self-attention in some blocks
    are blurred over the token grid (Hong 2024, arXiv 2408.00760).

    Parameters
    ----------
    scale
        How strong; the field uses 0 to 100. A number; a tensor of one for each sample; or a
        ``Weight`` with a curve over progress, samples, or both.
    blur_sigma
        Of the Gaussian, in tokens; infinite or below 0: the mean of all queries. 0: no blur.
    blocks
        Where, as "m0,u0.4,d2.2-9"; see ``find_blocks``.
    start, end
        The part of sampling in which it is active, 0 to 1.
    rescale, rescale_mode
        Against too much contrast: 0 none, 1 all; "full", "partial" or "snf". See ``rescaled``.

    Raises
    ------
    TypeError, ValueError
        For numbers that make no sense, naming them.
    """

    scale: Scale = 3.0
    blur_sigma: float = math.inf
    blocks: str = "m0"
    start: float = 0.0
    end: float = 1.0
    rescale: float = 0.0
    rescale_mode: str = "full"

    type_name: ClassVar[str] = "smoothed_energy_guidance"
    degrades: ClassVar[int] = COND

    def __post_init__(self) -> None:
        super().__post_init__()
        sigma = self.blur_sigma
        if isinstance(sigma, float | int) and (sigma < 0 or sigma == math.inf):
            sigma = math.inf
        else:
            sigma = number("blur_sigma", sigma)
        object.__setattr__(self, "blur_sigma", sigma)

    def bind(self, table: LayerTable, index: int = 0) -> BoundSmoothedEnergy:
        """Fit it to a UNet; see ``Patch.bind``."""
        return BoundSmoothedEnergy(self, table, index)


class BoundPerturbedAttention(BoundGuidance):
    """Makes the map the identity in the rows of its degraded pass."""

    def degrading(self, rows: tuple[bool, ...]) -> AttentionWrapper:
        """See ``BoundGuidance.degrading``."""
        return IdentityWrapper(rows)


class BoundSmoothedEnergy(BoundGuidance):
    """Blurs the queries in the rows of its degraded pass."""

    guidance: SmoothedEnergyGuidance

    def degrading(self, rows: tuple[bool, ...]) -> AttentionWrapper | None:
        """See ``BoundGuidance.degrading``."""
        sigma = self.guidance.blur_sigma
        return None if sigma == 0 else SmoothedWrapper(rows, sigma)


class _Degrading(ABC):
    """Changes some rows of a call."""

    reduces = False
    needs_all_tokens = False
    needs_grid = False

    def __init__(self, rows: tuple[bool, ...]) -> None:
        self._rows = rows

    def prepare(self, site: Site, dtype: torch.dtype, device: torch.device) -> None:  # noqa: B027
        """Keep nothing."""

    def reduce(self, site: Site, k_input: Tensor, v_input: Tensor) -> tuple[Tensor, Tensor]:
        """Change nothing."""
        return k_input, v_input

    @abstractmethod
    def attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """See ``AttentionWrapper.attend``."""

    def _merge(self, ordinary: Tensor, degraded: Tensor) -> Tensor:
        """Take the degraded rows of one and the others of the other."""
        if all(self._rows):
            return degraded
        runs = [(chosen, len(list(rows))) for chosen, rows in groupby(self._rows)]
        lengths = [length for _, length in runs]
        parts = zip(runs, ordinary.split(lengths), degraded.split(lengths), strict=True)
        return torch.cat([theirs if chosen else mine for (chosen, _), mine, theirs in parts])


class IdentityWrapper(_Degrading):
    """Each token sees itself alone."""

    needs_all_tokens = True  # each has its own value

    def attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """See ``AttentionWrapper.attend``."""
        if all(self._rows):
            return v
        site.check_rows(len(q))
        return self._merge(inner(q, k, v), v)


class SmoothedWrapper(_Degrading):
    """Queries are blurred over the grid."""

    def __init__(self, rows: tuple[bool, ...], sigma: float) -> None:
        super().__init__(rows)
        self._sigma = sigma
        self.needs_grid = sigma != math.inf  # the mean of all asks for none

    def prepare(self, site: Site, dtype: torch.dtype, device: torch.device) -> None:
        """Make the blur's matrices."""
        if self._sigma not in (0, math.inf):
            _blurs(site.grid, self._sigma, dtype, device)

    def attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """See ``AttentionWrapper.attend``."""
        site.check_rows(len(q))
        blurred = blur_tokens(join_heads(q), site.grid, self._sigma)
        return inner(self._merge(q, split_heads(blurred, q.shape[1])), k, v)


_matrices = Cache(size=64)


def blur_tokens(tokens: Tensor, grid: tuple[int, int], sigma: float) -> Tensor:
    """Blur tokens over their grid.

    Parameters
    ----------
    tokens
        (B, h·w, C), any floating dtype.
    grid
        h and w.
    sigma
        Of the Gaussian, in tokens: taps up to 3 sigma away, but never more than fit the side;
        reflected borders. Infinite: the mean of all.

    Returns
    -------
    Tensor
        (B, h·w, C), dtype of `tokens`.
    """
    if sigma == math.inf:
        return tokens.mean(1, keepdim=True).expand_as(tokens)
    if sigma == 0:
        return tokens
    rows, columns = _blurs(grid, sigma, tokens.dtype, tokens.device)
    # A blur along one side is a product with a small matrix, borders and all.
    maps = tokens.unflatten(1, grid)
    maps = torch.matmul(columns, maps)
    maps = torch.matmul(rows, maps.flatten(2)).unflatten(2, (grid[1], tokens.shape[2]))
    return maps.flatten(1, 2)


def _blurs(
    grid: tuple[int, int], sigma: float, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Give the matrices that blur rows and columns of a grid, kept on the device."""

    def of_side(side: int) -> Tensor:
        return _matrices.get(
            (side, sigma, dtype, where(device)),
            lambda: upload(_blur_matrix(side, sigma), device).to(dtype),
        )

    return of_side(grid[0]), of_side(grid[1])


@functools.lru_cache(maxsize=64)
def _blur_matrix(side: int, sigma: float) -> Tensor:
    """Float32 (side, side): rows are the taps of the Gaussian, reflected at the borders."""
    fitting = side | 1
    reach = min(math.ceil(6 * min(sigma, side)) | 1, fitting) // 2
    # Dividing before squaring keeps the smallest sigmas: their square would be zero.
    weights = [math.exp(-0.5 * min(abs(x) / sigma, 1e3) ** 2) for x in range(-reach, reach + 1)]
    total = sum(weights)
    matrix = torch.zeros(side, side, dtype=torch.float64, device="cpu")
    for row in range(side):
        for x, weight in zip(range(-reach, reach + 1), weights, strict=True):
            matrix[row, _reflected(row + x, side)] += weight / total
    return matrix.float()


def _reflected(position: int, side: int) -> int:
    """Bounce a place off the borders, which are not repeated."""
    if side == 1:
        return 0
    position %= 2 * (side - 1)
    return min(position, 2 * (side - 1) - position)
