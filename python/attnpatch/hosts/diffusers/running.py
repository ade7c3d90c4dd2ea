# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The pipeline that is running in this thread, whichever of those that share a UNet that is.

A UNet can not know who calls it: pipelines are copied, made of each other's parts, and run in
several threads. The one that runs now stands in the call stack, and so do its variables.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any

from torch import Tensor

__all__ = ["Running", "is_pipeline", "running_pipeline"]

_PIPELINES = ("DiffusionPipeline", "ModularPipeline")


def is_pipeline(value: object) -> bool:
    """Whether `value` is a pipeline of diffusers, told without importing it."""
    return any(
        base.__name__ in _PIPELINES and base.__module__.startswith("diffusers.")
        for base in type(value).__mro__
    )


class Running:
    """A pipeline that is running.

    Parameters
    ----------
    pipeline
        The pipeline.
    frames
        Of its methods that are running, the innermost first; not to be kept.
    """

    def __init__(self, pipeline: Any, frames: list[FrameType]) -> None:
        self.pipeline = pipeline
        self._frames = frames

    def local(self, name: str, default: Any = None) -> Any:
        """Return a variable of the running methods, the innermost that has it."""
        for frame in self._frames:
            value = frame.f_locals.get(name)
            if value is not None:
                return value
        return default

    def outer_local(self, name: str) -> Any:
        """Return a variable of the running methods, the outermost that has it."""
        return next((f.f_locals[name] for f in reversed(self._frames) if name in f.f_locals), None)

    def locals(self) -> Iterator[tuple[str, Any]]:
        """Return names and values of all variables of the running methods, the innermost first."""
        for frame in self._frames:
            yield from tuple(frame.f_locals.items())

    def methods(self) -> Iterator[tuple[CodeType, str]]:
        """Return code and module of the running methods, the innermost first."""
        for frame in self._frames:
            yield frame.f_code, frame.f_globals.get("__name__", "")

    def setting(self, name: str) -> Any:
        """Return a variable of the running methods, or else an attribute of the pipeline.

        Older pipelines keep what they were asked for in variables, newer ones in attributes.
        """
        value = self.local(name)
        return getattr(self.pipeline, name, None) if value is None else value

    @property
    def latent_rows(self) -> int | None:
        """How many latents are made, where the running methods say so."""
        latents = self.local("latents")
        return len(latents) if isinstance(latents, Tensor) and latents.dim() > 1 else None

    @property
    def guider_identifier(self) -> str | None:
        """Which prediction the guider of a modular pipeline asks for in this call."""
        state = self.local("guider_state_batch")
        return getattr(state, "__guidance_identifier__", None)


def running_pipeline() -> Running | None:
    """Return the innermost pipeline that is running in this thread; None: none is."""
    frame: FrameType | None = sys._getframe(1)
    pipeline: Any = None
    frames: list[FrameType] = []
    while frame is not None:
        owner = _owner(frame)
        if owner is not None:
            again = any(frame.f_code is other.f_code for other in frames)
            if pipeline is not None and (owner is not pipeline or again):
                break  # what follows called this one: another one's run, or another run of it
            pipeline = owner
            frames.append(frame)
        frame = frame.f_back
    return None if pipeline is None else Running(pipeline, frames)


def _owner(frame: FrameType) -> Any:
    """Return the pipeline whose method, or whose block's method, a frame is of."""
    code = frame.f_code
    names = code.co_varnames[: code.co_argcount]
    for name in ("self", "components"):  # blocks of modular pipelines get the pipeline
        if name in names:
            owner = frame.f_locals.get(name)
            if is_pipeline(owner):
                return owner
    return None
