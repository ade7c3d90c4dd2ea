# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""How often a host has repeated the texts of a UNet's call.

Rows of one call have texts of one length: the host repeats each until all have the least common
multiple. Attention to all of it stays the same; but a word then stands there several times, and a
picture in the same softmax weighs less.
"""

from __future__ import annotations

import math

from torch import Tensor

from attnpatch.hosts.comfyui.host_batch import HostBatch
from attnpatch.hosts.comfyui.joined_rows import JoinedRows

__all__ = ["find_repeats", "told_repeats"]


def told_repeats(
    batch: HostBatch | None, joined: JoinedRows | None, rows: int
) -> tuple[int, ...] | None:
    """Return how often the text of each row of a call stands there, as the host's batch tells.

    Parameters
    ----------
    batch
        As the host made it; None: it is not known.
    joined
        What the rows are, where they are not that batch; None: they are.
    rows
        How many rows the call has.

    Returns
    -------
    tuple of int or None
        Empty: once in all rows. None: nobody tells.
    """
    if batch is None or not batch.texts:
        return None
    if len(set(batch.texts)) == 1:
        return ()
    places = range(len(batch.input)) if joined is None else joined.outer
    if places is None or len(places) != rows:
        return None
    tokens = math.lcm(*batch.texts)
    return tuple(tokens // batch.texts[row // batch.each] for row in places)


def find_repeats(text: Tensor) -> tuple[int, ...]:
    """Find out how often the text of each row stands there by what repeats in it.

    A text that is the same token all along is taken for no repeated one.

    Parameters
    ----------
    text
        (rows, tokens, channels).

    Returns
    -------
    tuple of int
        Empty: once in all rows.
    """
    rows, tokens = text.shape[:2]
    if rows == 1:
        return ()
    found = [0] * rows
    for own in range(1, tokens // 2 + 1):
        if tokens % own == 0 and not all(found):
            same = (text[:, own:] == text[:, :-own]).flatten(1).all(1).tolist()
            for row in range(rows):
                if same[row] and not found[row]:
                    found[row] = tokens // own if own > 1 else 1
    repeats = tuple(times or 1 for times in found)
    return repeats if max(repeats) > 1 else ()
