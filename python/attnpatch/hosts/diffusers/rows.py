# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Which rows of a batch are cond and which uncond, told by the pipeline that is running."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import CodeType
from typing import Any

from attnpatch.hosts.diffusers.layouts import Layout, modular, told_by_text, unknown
from attnpatch.hosts.diffusers.pipelines import LAYOUTS
from attnpatch.hosts.diffusers.running import Running
from attnpatch.hosts.host_call import HostCall, Rows

__all__ = ["layout_of", "rows_of"]


def rows_of(running: Running | None, call: HostCall) -> Rows | None:
    """Return what the rows of a call are.

    Parameters
    ----------
    running
        The pipeline that is running; None: none is.
    call
        The call of the UNet.

    Returns
    -------
    Rows or None
        None: nobody tells.
    """
    return None if running is None else layout_of(running)(running, call)


def layout_of(running: Running) -> Layout:
    """Return the layout of the rows that a running pipeline hands to its UNet.

    That of the class whose ``__call__`` is running, whichever class inherits it. Where code of
    others runs, which may be a pipeline of theirs or a method that they changed, the texts tell; a
    class of diffusers that is not known, or runs another of its methods, tells nothing.
    """
    cls = type(running.pipeline)
    if any(base.__name__ == "ModularPipeline" for base in cls.__mro__):
        return modular
    classes = {_code(vars(base)["__call__"]): base for base in _with_call(cls)}
    for code, module in running.methods():
        if not module.startswith("diffusers."):
            return told_by_text
        if code in classes:
            return LAYOUTS.get(classes[code].__name__, unknown)
    return unknown


def _with_call(cls: type) -> list[type]:
    return [base for base in cls.__mro__ if "__call__" in vars(base)]


def _code(function: Callable[..., Any]) -> CodeType | None:
    return getattr(inspect.unwrap(function), "__code__", None)
