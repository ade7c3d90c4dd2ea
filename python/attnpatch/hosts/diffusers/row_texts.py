# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Which rows of a batch are cond and which uncond, told by the text that each is given."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from attnpatch.engine import COND, UNCOND
from attnpatch.hosts.diffusers.running import Running
from attnpatch.hosts.host_call import HostCall, Rows, told_rows

__all__ = ["has_own_text", "names_uncond", "rows_by_text"]


def has_own_text(running: Running, call: HostCall) -> bool:
    """Whether the text of a call is a variable of the pipeline, so that the call is its own.

    Callbacks, wrappers of UNets and others that come between make calls with texts of theirs.
    """
    text = call.encoder_hidden_states
    return not isinstance(text, Tensor) or any(value is text for _, value in running.locals())


def rows_by_text(running: Running, call: HostCall, guided: bool | None) -> Rows | None:
    """Return the rows of a call whose text the pipeline has under names that tell what it is.

    Parameters
    ----------
    running
        The pipeline that is running.
    call
        The call of the UNet.
    guided
        Whether there is classifier-free guidance; None: not known.

    Returns
    -------
    Rows or None
        None: the texts do not tell, or there are more or fewer rows than latents.
    """
    roles = _roles(running, call)
    if roles is None:
        return None
    counts = Counter(roles)
    latents = running.latent_rows
    if len(set(counts.values())) > 1 or latents not in (None, counts[roles[0]]):
        return None
    rows = told_rows(roles, call)
    split = len(counts) == 1 and guided is not False
    return Rows(rows.roles, rows.slots, split=split)


def _roles(running: Running, call: HostCall) -> tuple[int, ...] | None:
    text = call.encoder_hidden_states
    if not isinstance(text, Tensor) or text.dim() != 3 or text.device.type == "meta":
        return None
    if len(text) % call.batch:
        return None
    roles = _found.get(text)
    if roles is None:
        roles = _compare(text[:: len(text) // call.batch], running)
        if roles is not None:
            _found[text] = roles
    return roles if roles is not None and len(roles) == call.batch else None


# Pipelines hand over one tensor of text in all steps: a device is waited for once.
_found: Any = WeakIdKeyDictionary()


def _compare(text: Tensor, running: Running) -> tuple[int, ...] | None:
    """Tell each row by a text of the pipeline that equals it; None: not all are known."""
    negatives: list[Tensor] = []
    others: list[Tensor] = []
    for name, value in running.locals():
        if isinstance(value, Tensor) and value.shape[1:] == text.shape[1:]:
            (negatives if names_uncond(name) else others).append(value)
    if not negatives:
        return None
    uncond, known = _is_in(text, negatives), _is_in(text, others)
    matches = torch.stack([uncond, uncond | known]).tolist()
    if not all(matches[1]):
        return None
    return tuple(UNCOND if row else COND for row in matches[0])


def names_uncond(name: str) -> bool:
    """Whether a variable of that name holds uncond texts, and no cond ones beside them."""
    rest, count = re.subn(r"uncond|negative|neg(?![a-z])", "", name.lower())
    return count > 0 and not re.search(r"cond(?!ition)|pos", rest)


def _is_in(text: Tensor, candidates: Sequence[Tensor]) -> Tensor:
    """Return for each row of a text whether one of the candidates has it, bool (B,)."""
    equal_rows = torch.zeros(len(text), dtype=torch.bool, device=text.device)
    for candidate in candidates:
        equal = text[:, None] == candidate.to(text)[None]
        equal_rows |= equal.flatten(2).all(-1).any(-1)
    return equal_rows
