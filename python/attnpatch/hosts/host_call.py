# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What a host's call of its UNet holds, and what users say of its rows."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from attnpatch.engine import Crop

__all__ = ["CondOrUncond", "HostCall", "Rows", "check_roles", "told_rows"]


@dataclass(frozen=True)
class HostCall:
    """One call of a UNet, as its host makes it: what a callable ``cond_or_uncond`` is given.

    Parameters
    ----------
    sample
        The noisy latents (B, C, h, w) or (B, C, frames, h, w).
    timestep
        As the host hands it over.
    encoder_hidden_states
        The text of each row, as the host hands it over.
    options
        All else that the call is given by name; in ComfyUI the ``transformer_options``.
    pipeline
        The pipeline of diffusers that runs, if one does.
    """

    sample: Tensor
    timestep: Tensor | float | None = None
    encoder_hidden_states: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)
    pipeline: Any = None

    @property
    def batch(self) -> int:
        """Rows of the batch."""
        return int(self.sample.shape[0])


CondOrUncond = Sequence[int] | Callable[[HostCall], Sequence[int]]
"""The role of each chunk, or of each row, of a batch; or what tells it of each call."""


@dataclass(frozen=True)
class Rows:
    """What each row of a call is.

    Parameters
    ----------
    roles
        0 cond, 1 uncond.
    slots
        Which latent each row is a prediction of.
    samples
        Which sample each row is; None: as many as there are slots, in order.
    crops
        The part of its picture that each row shows; empty: all of it.
    split
        Whether cond and uncond come in calls of their own.
    aside
        Whether the call is no part of a step: a pipeline looks for something by it.
    read
        Whether the pipeline reads what attention did in this call, so that none may follow it.
    latents
        How many latents the step has, where the call is of fewer: `samples` then tells which of
        those each row is.
    """

    roles: tuple[int, ...]
    slots: tuple[int, ...]
    samples: tuple[int, ...] | None = None
    crops: tuple[Crop | None, ...] = ()
    split: bool = False
    aside: bool = False
    read: bool = False
    latents: int | None = None

    @classmethod
    def of_chunks(cls, chunks: Sequence[int], batch: int, **options: bool) -> Rows:
        """Rows in equal chunks, each of one role."""
        each = batch // len(chunks)
        roles = tuple(role for role in chunks for _ in range(each))
        return cls(roles, tuple(range(each)) * len(chunks), **options)


def check_roles(roles: Any) -> tuple[int, ...]:
    """Return a user's ``cond_or_uncond`` as a tuple.

    Raises
    ------
    ValueError
        If it is not a sequence of whole numbers of at least 0.
    """
    try:
        found = tuple(operator.index(role) for role in roles)
    except TypeError:
        found = ()
    if not found or min(found) < 0:
        raise ValueError(
            "cond_or_uncond: expected 0 for cond and 1 for uncond, for each row or for equal parts "
            "of the batch, such as (1, 0), or a callable that gives it for a call, "
            f"got {roles!r}"
        )
    return found


def told_rows(cond_or_uncond: CondOrUncond, call: HostCall) -> Rows:
    """Return the rows of a call as a user tells them.

    As many roles as rows, equally many of each: the first cond and the first uncond row belong
    together, the second ones, and so on. Otherwise the roles are those of equal chunks.

    Raises
    ------
    ValueError
        Where what is told does not fit the call.
    """
    batch = call.batch
    roles = check_roles(cond_or_uncond(call) if callable(cond_or_uncond) else cond_or_uncond)
    if batch % len(roles):
        raise ValueError(
            f"cond_or_uncond: expected a multiple of {len(roles)} rows, cond and uncond in equal "
            f"parts {roles}, got {batch} rows"
        )
    if len(roles) < batch or len(set(Counter(roles).values())) > 1:
        return Rows.of_chunks(roles, batch)
    seen: Counter[int] = Counter()
    slots = []
    for role in roles:
        slots.append(seen[role])
        seen[role] += 1
    return Rows(roles, tuple(slots))
