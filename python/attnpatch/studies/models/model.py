# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What a study needs of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from attnpatch.adapters import ImageAdapter, ImageEmbeds
from attnpatch.hosts.host_call import CondOrUncond
from attnpatch.pictures import Picture
from attnpatch.studies.cells import Cell
from attnpatch.studies.models.takes import Takes

__all__ = ["Model"]


class Model(Takes, Protocol):
    """A pipeline, and what reads the adapters and encodes the pictures for it.

    Attributes
    ----------
    pipeline
        What patches are attached to.
    cond_or_uncond
        As of ``attnpatch.attach``; None: the pipeline itself tells.
    device : str
    """

    pipeline: Any
    cond_or_uncond: CondOrUncond | None
    device: str

    def adapter(self, source: str, options: Mapping[str, Any]) -> ImageAdapter:
        """Read an adapter."""
        ...

    def encode(
        self, adapter: ImageAdapter, pictures: Sequence[Picture], options: Mapping[str, Any]
    ) -> ImageEmbeds:
        """Make image tokens of pictures; options are those of ``ImageAdapter.encode``."""
        ...

    def generate(
        self, cells: Sequence[Cell], on_step: Callable[[], None]
    ) -> npt.NDArray[np.float32]:
        """Make the pictures of some cells in one run of the pipeline.

        The cells differ in prompts and seeds alone, and ``check`` took them; patches are attached.
        `on_step` is called after each step. Returns (cells, height, width, channels), 0 to 1.
        """
        ...

    def steps(self, cell: Cell) -> int:
        """Return how many steps a cell has."""
        ...

    def latent(self, cell: Cell) -> tuple[int, int] | None:
        """Return height and width of a cell's latent; None: it is not known."""
        ...

    def similarity(
        self, pictures: Sequence[Picture], references: Sequence[Picture]
    ) -> list[float] | None:
        """Return for each pair the cosine of the encoder's embeddings; None: no encoder."""
        ...
