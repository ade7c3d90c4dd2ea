# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Which samples, or which part of the latent, a call shows that is made of a window of the whole.

A host puts its window into the options of the call; it stays there when the call is over.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from attnpatch.patches import Area

__all__ = ["shown_part", "shown_samples"]

logger = logging.getLogger("attnpatch")

_NONE: Mapping[str, Any] = {}


def shown_samples(
    options: Mapping[str, Any], rows: int, retained: Sequence[int] = ()
) -> tuple[int, ...] | None:
    """Return which samples a chunk of so many rows shows; None: all, in order.

    Parameters
    ----------
    options
        The host's ``transformer_options``.
    rows
        Of a chunk.
    retained
        Places of all windows that show what stands there in the whole.
    """
    window = options.get("ad_params", _NONE).get("sub_idxs")  # AnimateDiff's
    if window is not None:
        return tuple(window)
    window = options.get("context_window")
    if window is None or getattr(window, "dim", 0) != 0:
        return None
    shown = _indices(window, retained)
    return shown if len(shown) == rows else None


def shown_part(
    options: Mapping[str, Any],
    shape: Sequence[int],
    latent: tuple[int, int],
    retained: Sequence[int] = (),
) -> Area | None:
    """Return which part of the latent a call shows; None: all.

    Rows and columns that do not follow each other are a latent of their own, with a warning.

    Parameters
    ----------
    options, retained
        As for `shown_samples`.
    shape
        Of what the call is given.
    latent
        Height and width of the whole.
    """
    window = options.get("context_window")
    axis = getattr(window, "dim", 0) - (len(shape) - 2)
    if window is None or axis not in (0, 1):
        return None
    shown, (height, width) = _indices(window, retained), shape[-2:]
    if len(shown) != (height, width)[axis]:
        return None
    followed = [(shown[0] + place) % latent[axis] for place in range(len(shown))]
    if list(shown) != followed or (width, height)[axis] != latent[1 - axis]:
        _tell_once(("rows", "columns")[axis])
        return None
    top, left = (shown[0], 0) if axis == 0 else (0, shown[0])
    return Area(top, left, height, width)


@functools.cache
def _tell_once(lines: str) -> None:
    """Warn of what holds for all windows of all steps."""
    logger.warning(
        "context_window: shows %s of a latent that do not follow each other: masks and tiles are "
        "laid over each window, not over the whole picture",
        lines,
    )


def _indices(window: Any, retained: Sequence[int]) -> tuple[int, ...]:
    """Return what the window holds, in order, along its axis."""
    before = getattr(window, "causal_anchor_index", None)
    shown = [*([] if before is None or before < 0 else [before]), *window.index_list]
    for place in retained:
        shown[place] = place
    return tuple(shown)
