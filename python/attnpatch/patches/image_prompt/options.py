# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""An image prompt's options: what they may be, and how they print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
from torch import Tensor

from attnpatch.adapters.compat import Compat, check_compat, is_node_pack
from attnpatch.engine.masks import as_batch, to_mask
from attnpatch.engine.rows import ROLE_NAMES
from attnpatch.engine.weights import Weight
from attnpatch.patches.image_prompt.keys_values import SiteProjections, is_described

__all__ = [
    "checked_compat",
    "default_scaling",
    "one_of",
    "read_masks",
    "read_roles",
    "short_repr",
    "source_of",
    "with_names_of_today",
]


def source_of(adapter: SiteProjections) -> str:
    """Say in short which adapter it was."""
    if not is_described(adapter):
        return str(adapter)
    return f"{adapter.kind} {adapter.family} {adapter.digest[:12]}"


def default_scaling(shared_softmax: bool) -> str:
    """How the weight acts where nothing else is asked for."""
    return "K+mean(V) w/ C penalty" if shared_softmax else "V only"


def checked_compat(compat: str | None, shared_softmax: bool) -> Compat | None:
    """Return the program to imitate, which has one form of softmax alone."""
    program = check_compat(compat)
    if program is not None and is_node_pack(program) == shared_softmax:
        raise ValueError(
            f"compat: expected shared_softmax={not shared_softmax} beside {program!r}, which has "
            f"no other, got {shared_softmax}"
        )
    return program


def with_names_of_today(values: Mapping[str, Any]) -> dict[str, Any]:
    """Give a state's options, some of which had other names in files of version 0.1."""
    options = dict(values)
    for old, new in (("joint", "shared_softmax"), ("hold_last", "repeat_last")):
        if old in options:
            options[new] = options.pop(old)
    if options.pop("reference_quirks", False):
        options["compat"] = "fooocus" if options["shared_softmax"] else "comfyui_ipadapter_plus"
    return options


def read_masks(mask: npt.ArrayLike | Tensor | None) -> dict[str, Tensor | None]:
    """Read a mask; one that requires a gradient is not copied."""
    if mask is None:
        return {"mask": None, "trained_mask": None}
    values = to_mask(mask)
    if isinstance(mask, Tensor) and mask.requires_grad:
        return {"mask": as_batch(mask.detach()), "trained_mask": mask}
    return {"mask": values, "trained_mask": None}


def one_of(name: str, value: str, known: Sequence[str]) -> str:
    """Return a word that is one of the known ones."""
    if value not in known:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, known))}, got {value!r}")
    return value


def read_roles(roles: Mapping[int, str] | Sequence[tuple[int, str]]) -> tuple[tuple[int, str], ...]:
    """Read what rows of further roles get, in order."""
    pairs = roles.items() if isinstance(roles, Mapping) else roles
    return tuple(sorted((int(role), one_of("roles", name, ROLE_NAMES)) for role, name in pairs))


def short_repr(weight: Weight) -> str:
    """Give the shortest form that ``Weight.of`` reads back."""
    if weight == Weight(weight.scale):
        return f"weight={weight.scale!r}"
    if isinstance(weight.layers, str) and weight == Weight(layers=weight.layers):
        return f"weight={weight.layers!r}"
    return f"weight={weight!r}"
