# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What a patch learns about its host: the call of the UNet, and the layer in it."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

from attnpatch._core import Layer, token_grid

__all__ = ["Call", "Site"]


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of the UNet, as its host describes it. Built once a call, shared by its sites.

    Parameters
    ----------
    latent
        Height and width of the latent.
    batch
        Rows of the batch in all: equal chunks of samples.
    chunks
        The kind of each chunk: 0 cond, 1 uncond; others are uncond unless a patch says otherwise.
        ComfyUI calls it ``cond_or_uncond``; diffusers' order is (1, 0).
    progress
        How far sampling is, 0 to 1, in the sense of start and end percents. None: unknown; then
        only patches that are active throughout can be used.
    sigma, timestep
        For patches that want them, read once a call.
    samples
        Which picture each row of a chunk is, for hosts that show a part of a batch or repeat
        pictures. None: 0, 1, 2, ….
    degraded
        For each chunk the place in the stack of the guidance that asked for it, of which it is the
        degraded pass; -1 for an ordinary chunk. Empty: all are ordinary.
    record
        Where patches that record attention put what they find; None: nobody asks for it.

    Raises
    ------
    ValueError
        Where batch, chunks, samples and degraded do not fit together.
    """

    latent: tuple[int, int]
    batch: int = 1
    chunks: tuple[int, ...] = (0,)
    progress: float | None = None
    sigma: float | None = None
    timestep: float | None = None
    samples: tuple[int, ...] | None = None
    degraded: tuple[int, ...] = ()
    record: Any = field(default=None, repr=False, compare=False)
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        def fix(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        height, width = (operator.index(size) for size in self.latent)
        if height < 1 or width < 1:
            raise ValueError(f"latent: expected height and width of at least 1, got {self.latent}")
        fix("latent", (height, width))
        fix("batch", operator.index(self.batch))
        fix("chunks", tuple(operator.index(kind) for kind in self.chunks))
        fix("degraded", tuple(operator.index(place) for place in self.degraded))
        if self.samples is not None:
            fix("samples", tuple(operator.index(sample) for sample in self.samples))
        for name in ("progress", "sigma", "timestep"):
            value = getattr(self, name)
            if value is not None:
                fix(name, float(value))
        if not self.chunks or self.batch < 1 or self.batch % len(self.chunks):
            raise ValueError(
                f"batch: expected equal chunks, got {self.batch} rows for {len(self.chunks)} chunks"
            )
        if self.samples is not None and len(self.samples) != self.chunk_size:
            raise ValueError(
                f"samples: expected one for each of the {self.chunk_size} rows of a chunk, "
                f"got {len(self.samples)}"
            )
        if self.degraded and len(self.degraded) != len(self.chunks):
            raise ValueError(
                f"degraded: expected one for each of the {len(self.chunks)} chunks, "
                f"got {len(self.degraded)}"
            )
        moment = self.progress, self.sigma, self.timestep
        fix("_hash", hash((self.layout, self.degraded, self.latent, moment)))

    def __hash__(self) -> int:
        return self._hash

    @property
    def chunk_size(self) -> int:
        """Rows of one chunk."""
        return self.batch // len(self.chunks)

    @property
    def layout(self) -> tuple[tuple[int, ...], int, tuple[int, ...]]:
        """Chunks, batch and samples (empty: in order): what decides which row gets what."""
        return self.chunks, self.batch, self.samples or ()


@dataclass(frozen=True, slots=True)
class Site:
    """One attention layer in one call.

    Parameters
    ----------
    layer
        From the model's ``LayerTable``.
    call
        The call that this happens in.
    grid
        The token grid (rows, columns). None: the latent's, halved for each level and rounded up,
        which is right unless the host itself changes sizes inside the UNet.
    attention
        "cross" (attn2) or "self" (attn1).
    """

    layer: Layer
    call: Call
    grid: tuple[int, int] = None  # type: ignore[assignment]
    attention: str = "cross"

    def __post_init__(self) -> None:
        if self.grid is None:
            object.__setattr__(self, "grid", token_grid(*self.call.latent, self.layer.level))
