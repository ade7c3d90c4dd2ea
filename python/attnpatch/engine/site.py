# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What a patch learns about its host: the call of the UNet, its rows, and the layer in it."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

from attnpatch._core import Layer, token_grid
from attnpatch.engine.joint_layers import JointLayer
from attnpatch.engine.tokens import Tokens, image_tokens, text_tokens

__all__ = ["COND", "UNCOND", "Call", "Crop", "SamplingPoint", "Site"]

COND, UNCOND = 0, 1
"""Roles of rows, as ComfyUI counts them; others are uncond unless a patch says otherwise."""


class SamplingPoint(NamedTuple):
    """Where a row stands in sampling; None: the host does not tell."""

    progress: float | None = None
    """0 at the start, 1 at the end, in the sense of start and end percents."""
    sigma: float | None = None
    timestep: float | None = None


class Crop(NamedTuple):
    """The part of a picture that a row shows: a tile, a view, the area of a conditioning."""

    top: int
    """In pixels of the picture's latent, as all here. Its size is that of the call's latent."""
    left: int
    canvas: tuple[int, int]
    """Height and width of the whole picture's latent."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of the UNet, as its host describes it. Built once a call, shared by its sites.

    Rows may be of any roles in any order, of several samples, crops and times.

    Parameters
    ----------
    latent
        Height and width of the latent.
    batch
        Rows of the batch in all: equal chunks.
    chunks
        The role of each chunk: 0 cond, 1 uncond; others are uncond unless a patch says otherwise.
        ComfyUI calls it ``cond_or_uncond``; diffusers' order is (1, 0). As many chunks as rows: a
        role for each row.
    progress
        How far sampling is, 0 to 1, in the sense of start and end percents; a sequence: one for
        each row of the batch. None: unknown; then only patches that are active throughout can be
        used.
    sigma, timestep
        For patches that want them, read once a call; a sequence: one for each row of the batch.
    samples
        Which sample each row of a chunk, or of the batch, is: an image that is made. For hosts that
        show a part of a batch or repeat samples. None: as many as there are slots, in order.
    slots
        Which latent each row of the batch is a prediction of: cond and uncond rows that belong
        together have the same. None: the places in the chunks.
    crops
        For each row of the batch the part of the picture that it shows; None in the place of one:
        all of it. Empty: all rows show all.
    attentions
        In joint attention, for each that its layers compute what queries and keys are.
    negatives
        For each row of the batch the row whose negative text it has, added by us: both have one
        image. -1: a row of the host's. Empty: all are.
    hidden
        For each row of the batch the keys that it must not attend to and the host shows it, (first,
        last + 1): padding that makes texts equally long. (0, 0): none. Empty: none of any row.
    repeats
        For each row of the batch how often its text stands in what the layers are given: hosts
        repeat texts until all rows have equally many tokens. Empty: once.
    degraded
        For each chunk the place in the stack of the guidance that asked for it, of which it is the
        degraded pass; -1 for an ordinary chunk. Empty: all are ordinary.
    record
        Where patches that record attention put what they find; None: nobody asks for it.

    Attributes
    ----------
    roles : tuple of int
        The role of each row of the batch.
    points : tuple of SamplingPoint
        One for all rows, or one for each.

    Raises
    ------
    ValueError
        Where the numbers do not fit together.
    """

    latent: tuple[int, int]
    batch: int = 1
    chunks: tuple[int, ...] = (COND,)
    progress: float | tuple[float, ...] | None = None
    sigma: float | tuple[float, ...] | None = None
    timestep: float | tuple[float, ...] | None = None
    samples: tuple[int, ...] | None = None
    slots: tuple[int, ...] | None = None
    crops: tuple[Crop | None, ...] = ()
    attentions: tuple[tuple[Tokens, Tokens], ...] = ()
    negatives: tuple[int, ...] = ()
    hidden: tuple[tuple[int, int], ...] = ()
    repeats: tuple[int, ...] = ()
    degraded: tuple[int, ...] = ()
    record: Any = field(default=None, repr=False, compare=False)
    roles: tuple[int, ...] = field(init=False, repr=False, compare=False)
    points: tuple[SamplingPoint, ...] = field(init=False, repr=False, compare=False)
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        height, width = (operator.index(size) for size in self.latent)
        if height < 1 or width < 1:
            raise ValueError(f"latent: expected height and width of at least 1, got {self.latent}")
        self._fix("latent", (height, width))
        self._fix("batch", operator.index(self.batch))
        for name in ("chunks", "degraded", "negatives", "repeats", "samples", "slots"):
            value = getattr(self, name)
            if value is not None:
                self._fix(name, tuple(operator.index(item) for item in value))
        self._fix("crops", tuple(self.crops) if any(self.crops) else ())
        self._check()
        self._fix("roles", tuple(self.by_row(self.chunks)))
        self._fix("points", self._points())
        self._fix("_hash", hash((self.layout, self.crops, self.degraded, self.latent, self.points)))

    def _fix(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _check(self) -> None:
        if not self.chunks or self.batch < 1 or self.batch % len(self.chunks):
            raise ValueError(
                f"batch: expected cond and uncond rows in {len(self.chunks)} equal parts "
                f"{self.chunks}, got {self.batch} rows"
            )
        if self.samples is not None:
            if len(self.samples) not in (self.chunk_size, self.batch):
                raise ValueError(
                    f"samples: expected the picture of each of the {self.batch} rows, or of the "
                    f"{self.chunk_size} rows of each cond or uncond part, got {len(self.samples)}"
                )
            if min(self.samples) < 0:
                raise ValueError(f"samples: expected 0 or more, got {min(self.samples)}")
        for name in ("slots", "crops", "hidden", "repeats"):
            value = getattr(self, name)
            if value and len(value) != self.batch:
                raise ValueError(
                    f"{name}: expected one for each of the {self.batch} rows, got {len(value)}"
                )
        if self.slots is not None and set(self.slots) != set(range(self.slot_count)):
            raise ValueError(f"slots: expected numbers 0, 1, 2, … without gaps, got {self.slots}")
        if self.degraded and len(self.degraded) != len(self.chunks):
            raise ValueError(
                f"degraded: expected one for each of the {len(self.chunks)} cond or uncond parts, "
                f"got {len(self.degraded)}"
            )

    def _points(self) -> tuple[SamplingPoint, ...]:
        """Bring the times into their normal form; one point where all rows share it."""
        for name in SamplingPoint._fields:
            value = getattr(self, name)
            if isinstance(value, Sequence) or getattr(value, "ndim", 0) > 0:
                value = tuple(map(float, value))
                if len(value) != self.batch:
                    raise ValueError(
                        f"{name}: expected a number or one for each of the {self.batch} rows, got "
                        f"{len(value)}"
                    )
                self._fix(name, value if len(set(value)) > 1 else value[0])
            elif value is not None:
                self._fix(name, float(value))
        fields = [getattr(self, name) for name in SamplingPoint._fields]
        if not any(isinstance(value, tuple) for value in fields):
            return (SamplingPoint(*fields),)
        rows = [value if isinstance(value, tuple) else (value,) * self.batch for value in fields]
        return tuple(map(SamplingPoint, *rows))

    def __hash__(self) -> int:
        return self._hash

    def grid(self, layer: Layer) -> tuple[int, int]:
        """Return rows and columns of a layer's tokens: the latent's, halved for each level."""
        return token_grid(*self.latent, layer.level)

    @property
    def chunk_size(self) -> int:
        """Rows of one chunk."""
        return self.batch // len(self.chunks)

    @property
    def layout(self) -> tuple[Any, ...]:
        """What decides which row gets what, beside times, crops and degraded passes."""
        rows = (self.samples or (), self.slots or (), self.negatives, self.hidden, self.repeats)
        return (self.chunks, self.batch, *rows)

    @property
    def slot_count(self) -> int:
        """How many latents the rows are predictions of."""
        return self.chunk_size if self.slots is None else len(set(self.slots))

    @property
    def row_slots(self) -> tuple[int, ...]:
        """Which latent each row of the batch is a prediction of."""
        if self.slots is not None:
            return self.slots
        return tuple(range(self.chunk_size)) * len(self.chunks)

    @property
    def row_samples(self) -> tuple[int, ...]:
        """Which sample each row of the batch is."""
        if self.samples is None:
            return self.row_slots
        return self.samples * (self.batch // len(self.samples))

    @property
    def row_points(self) -> tuple[SamplingPoint, ...]:
        """Where each row of the batch stands in sampling."""
        return self.points * (self.batch // len(self.points))

    def by_row(self, of_chunks: Sequence[Any]) -> list[Any]:
        """Give what there is for each chunk for each row."""
        return list(chain.from_iterable([value] * self.chunk_size for value in of_chunks))


@dataclass(frozen=True, slots=True)
class Site:
    """One attention layer in one call.

    Parameters
    ----------
    layer : Layer or JointLayer
        From the model's table.
    call : Call
        The call that this happens in.
    queries, keys : Tokens
        What its queries and its keys are.
    """

    layer: Layer | JointLayer
    call: Call
    queries: Tokens
    keys: Tokens

    @classmethod
    def over_text(cls, layer: Layer, call: Call, grid: tuple[int, int] | None = None) -> Site:
        """Return a site where an image's tokens attend to the text.

        ``grid`` is the image's, rows and columns. None: the latent's, halved for each level and
        rounded up, which is right unless the host itself changes sizes inside the model.
        """
        return cls(layer, call, image_tokens(grid or call.grid(layer)), text_tokens(call.repeats))

    @classmethod
    def over_image(cls, layer: Layer, call: Call, grid: tuple[int, int] | None = None) -> Site:
        """Return a site where an image's tokens attend to each other; ``grid`` as above."""
        tokens = image_tokens(grid or call.grid(layer))
        return cls(layer, call, tokens, tokens)

    def check_rows(self, rows: int) -> None:
        """Raise ValueError where queries are of so many rows, other than the call's."""
        if rows != self.call.batch:
            raise ValueError(
                f"q: expected the {self.call.batch} rows of the call at {self.layer.name}, got "
                f"{rows}: something between the model and this layer cuts the batch up or joins "
                "others to it, and patches can not tell which rows these are"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the image's tokens among the queries."""
        return self.queries.grid
