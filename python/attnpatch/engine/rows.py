# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Which of a patch's pictures serves each row of a batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from attnpatch.engine.site import COND, UNCOND, Call

__all__ = ["ROLE_NAMES", "key_rows", "role_name", "sample_rows"]

ROLE_NAMES = ("cond", "uncond", "off")
"""What a patch does for a row: its image, its negative image, or nothing."""


def role_name(role: int, declared: Mapping[int, str]) -> str:
    """Name the role of rows: 0 is cond, every other number uncond, unless declared."""
    return declared.get(role, "cond" if role == COND else "uncond")


def sample_rows(call: Call, count: int, what: str, *, repeat_last: bool = False) -> list[int]:
    """Return which of `count` pictures serves each row of the batch.

    Parameters
    ----------
    call
        Says which sample each row is.
    count
        How many there are; one serves all rows.
    what
        What they are of, for errors.
    repeat_last
        The last one serves all pictures after it; otherwise that is an error.

    Raises
    ------
    ValueError
        Where there are other pictures than rows ask for.
    """
    if count == 1:
        return [0] * call.batch
    samples = call.row_samples
    if repeat_last:
        return [min(sample, count - 1) for sample in samples]
    fits = count == call.slot_count if call.samples is None else max(samples) < count
    if not fits:
        images = call.slot_count
        several = "" if images == 1 else f", or {images}: one for each image that is made"
        if call.samples is not None:
            several = f", or more than {max(samples)}, the last picture that a row shows"
        raise ValueError(
            f"{what}: expected 1 picture{several}, got {count} for {_describe_rows(call)}"
        )
    return list(samples)


def _describe_rows(call: Call) -> str:
    """Say how many rows of which role a call has: "2 cond and 2 uncond rows"."""
    counts = Counter(call.roles)
    names = {COND: "cond", UNCOND: "uncond"}
    parts = [f"{counts[role]} {names.get(role, f'role {role}')}" for role in sorted(counts)]
    return f"{' and '.join(parts)} {'row' if call.batch == 1 else 'rows'}"


def key_rows(
    call: Call,
    declared: Mapping[int, str],
    pictures: int,
    negatives: int,
    *,
    repeat_last: bool = False,
) -> list[int]:
    """Return which row of image keys serves each row of the batch; -1: none.

    Parameters
    ----------
    call
        Says of what role and sample each row is.
    declared
        What rows of further roles get; see :func:`role_name`.
    pictures, negatives
        How many rows there are for cond, and after those for uncond: none, 1, or as many.
    repeat_last
        See :func:`sample_rows`.
    """
    chosen = sample_rows(call, pictures, "image prompt", repeat_last=repeat_last)
    return [
        _key_row(role_name(role, declared), picture, pictures, negatives)
        for role, picture in zip(call.roles, chosen, strict=True)
    ]


def _key_row(name: str, picture: int, pictures: int, negatives: int) -> int:
    if name == "cond":
        return picture
    if name == "off" or negatives == 0:
        return -1
    return pictures + (0 if negatives == 1 else picture)
