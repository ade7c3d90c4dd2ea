# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Which conditionings of a step are cond and which uncond.

A host numbers them by their place among those that are batched together. In a pair these numbers
are the roles, 0 cond and 1 uncond. Guiders that batch three put them in orders of their own, and
what runs a pass of uncond alone makes it number 0. But a guider has names for its conditionings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from attnpatch.engine import COND, UNCOND

__all__ = ["ROLES", "STEP", "PredictNoiseWrapper", "Step", "roles_of", "sigmas_of_step"]

ROLES = "attnpatch_roles"
"""Where the options of a call hold the roles of conditionings by number, if they are others."""
STEP = "attnpatch_step"
"""Where the model's options of a step, and those of its calls, hold the :class:`Step`."""
_NAMED = "attnpatch_named"  # where the model's options of a step hold the guider's conditionings
_ROLES = {"positive": COND, "negative": UNCOND}

Conds = Sequence[Mapping[str, Any]]


class Step(NamedTuple):
    """A step of all samples, which a host may take window by window."""

    sigmas: Tensor
    latent: tuple[int, int]
    """Height and width."""


def sigmas_of_step(options: Mapping[str, Any], sigmas: Tensor) -> Tensor:
    """Return the sigmas of the whole step, where options tell; else `sigmas`, of a call."""
    step: Step | None = options.get(STEP)
    return sigmas if step is None else step.sigmas


class PredictNoiseWrapper:
    """Stands around each step of a guider: hands on the step and its conditionings' names."""

    def __call__(
        self,
        execute: Any,
        x: Tensor,
        timestep: Any,
        model_options: Mapping[str, Any] | None = None,
        seed: int | None = None,
    ) -> Any:
        """Predict as the guider would have."""
        named = getattr(getattr(execute, "class_obj", None), "conds", None)
        step = Step(timestep, (int(x.shape[-2]), int(x.shape[-1])))
        options = {**(model_options or {}), _NAMED: named, STEP: step}
        return execute(x, timestep, options, seed)

    def __deepcopy__(self, memo: dict[int, Any]) -> PredictNoiseWrapper:
        """Share it: it holds nothing."""
        return self


def roles_of(conds: Sequence[Conds | None], options: Mapping[str, Any]) -> dict[int, int]:
    """Return the roles of conditionings by number, where the guider's names say others.

    Parameters
    ----------
    conds
        What is batched together.
    options
        The model's options of the step.
    """
    named: Mapping[str, Conds] = options.get(_NAMED) or {}
    # Those that the host adds for the areas of others come last, and share their identities.
    told = {
        entries[0].get("uuid"): _ROLES.get(name, _ROLES.get(entries[0].get("prompt_type", "")))
        for name, entries in named.items()
        if entries
    }
    found = {n: told.get(entries[0].get("uuid")) for n, entries in enumerate(conds) if entries}
    return {number: role for number, role in found.items() if role not in (None, number)}
