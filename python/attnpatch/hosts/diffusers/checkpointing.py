# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Gradient checkpointing: what is computed again belongs to the call that it was first part of.

A backward pass computes checkpointed blocks a second time: after their call, perhaps after later
calls too, and on a GPU in a thread of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from attnpatch.hosts.diffusers.running_call import Patched

_FUNCTION = "_gradient_checkpointing_func"  # diffusers' name of it, in every module that has one


class Checkpointing:
    """The checkpointing functions of a UNet's modules, which remember the running call.

    Parameters
    ----------
    unet
        Whose modules they are; until `restore` they are replaced.
    patched
        Knows which call is running.
    """

    def __init__(self, unet: Any, patched: Patched) -> None:
        self._originals: list[tuple[Any, Callable[..., Any]]] = []
        if not (torch.is_grad_enabled() and getattr(unet, "is_gradient_checkpointing", False)):
            return
        for module in unet.modules():
            original = getattr(module, _FUNCTION, None)
            if original is not None and getattr(module, "gradient_checkpointing", False):
                self._originals.append((module, original))
                setattr(module, _FUNCTION, _remembering(original, patched))

    def restore(self) -> None:
        """Put the modules' own functions back."""
        for module, original in self._originals:
            setattr(module, _FUNCTION, original)
        self._originals = []


def _remembering(original: Callable[..., Any], patched: Patched) -> Callable[..., Any]:
    def checkpoint(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return original(function, *args, **kwargs)
        running = patched.running
        run, call, layers = running.run, running.call, patched.layers

        def compute(*inputs: Any, **keywords: Any) -> Any:
            if any(layer.patched_processor is None for layer in layers):
                raise RuntimeError(
                    "attach: gradient checkpointing computes layers again in the backward pass, "
                    "but the patches were detached before it; call backward before detach, inside "
                    "the with block"
                )
            here = patched.running  # of this thread
            before = here.run, here.call
            here.run, here.call = run, call
            try:
                return function(*inputs, **keywords)
            finally:
                here.run, here.call = before

        return original(compute, *args, **kwargs)

    return checkpoint
