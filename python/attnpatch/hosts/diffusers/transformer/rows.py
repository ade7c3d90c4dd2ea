# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Which rows of a transformer's call are cond and which uncond, told by the text of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from attnpatch.engine import COND, UNCOND
from attnpatch.hosts.diffusers.layouts import guidance_of, modular
from attnpatch.hosts.diffusers.row_texts import names_uncond, rows_by_text
from attnpatch.hosts.diffusers.running import Running
from attnpatch.hosts.diffusers.transformer.sequence import Sequenced
from attnpatch.hosts.host_call import HostCall, Rows, told_rows

__all__ = ["rows_of_text"]


def rows_of_text(running: Running | None, sequence: Sequenced) -> Rows | None:
    """Return what the rows of a call are; None: nobody tells.

    Pipelines either hand over all rows at once, [uncond, cond], or cond and uncond in calls of
    their own, each with a text that is a variable of theirs.
    """
    if running is None:
        return None
    batch, text = sequence.batch, sequence.text
    if any(kind.__name__ == "ModularPipeline" for kind in type(running.pipeline).__mro__):
        return modular(running, _host_call(batch, text))
    if isinstance(text, Sequence):
        roles = [_role(running, row, beside=text) for row in text]
        if any(role is None for role in roles):
            return None
        if any(_is_both(running, row, beside=text) for row in text):
            return None
        return told_rows([role for role in roles if role is not None], _host_call(batch, None))
    call = _host_call(batch, text)
    if _is_both(running, text):
        return None
    role = _role(running, text)
    if role is None:
        return rows_by_text(running, call, guidance_of(running))
    latents = running.latent_rows
    if latents is None or batch == latents:
        return Rows.of_chunks((role,), batch)
    if guidance_of(running) and batch == 2 * latents:
        return Rows.of_chunks((UNCOND, COND), batch)
    return None


def _host_call(batch: int, text: Any) -> HostCall:
    sample: Any = _Rows(batch)
    return HostCall(sample, encoder_hidden_states=text)


class _Rows:
    """Stands for latents of which the rows alone are asked."""

    def __init__(self, batch: int) -> None:
        self.shape = (batch,)


def _is_both(running: Running, text: Any, beside: Any = None) -> bool:
    """Whether one object is the text of cond and uncond: calls with it can not be told apart."""
    if guidance_of(running) is False or running.local("do_true_cfg") is False:
        return False
    return len({names_uncond(name) for name in _names(running, text, beside)}) > 1


def _role(running: Running, text: Any, beside: Any = None) -> int | None:
    """Return the role of what a variable of the pipeline holds; None: it is none of these."""
    names = _names(running, text, beside)
    if not names:
        return None
    return UNCOND if all(map(names_uncond, names)) else COND


def _names(running: Running, text: Any, beside: Any) -> list[str]:
    """Return the names of the pipeline's variables that hold a text.

    What is handed over, `beside`, may hold rows of all roles: other variables tell before it.
    """
    holders = [(name, value is beside) for name, value in running.locals() if _holds(value, text)]
    return [name for name, whole in holders if not whole] or [name for name, _ in holders]


def _holds(value: Any, text: Any) -> bool:
    if isinstance(value, list) and isinstance(text, Tensor):
        return any(item is text for item in value)
    return value is text
