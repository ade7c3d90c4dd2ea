# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The place of an attention module's processor: taken by one of ours, and given back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from attnpatch.hosts.diffusers.operators import register

__all__ = ["ProcessorSlot", "layer_of"]


class ProcessorSlot(ABC):
    """One attention module whose processor ours may stand in for.

    Parameters
    ----------
    module
        The attention module.
    """

    def __init__(self, module: Any) -> None:
        self.module = module
        self.patched_processor: Any = None
        self.handle = register(self)  # type: ignore[arg-type]  # it is the layer that derives

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "handle"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.handle = register(self)  # type: ignore[arg-type]  # graphs find copies by their own

    @abstractmethod
    def make_processor(self, original: Any) -> Any:
        """Return a processor of ours that stands in for this one."""

    @property
    def replaced(self) -> bool:
        """Whether another processor stands where ours should."""
        return self.module.processor is not self.patched_processor

    def take_over(self) -> Any:
        """See that ours is the module's processor; return one that had replaced it."""
        processor = self.module.processor
        if processor is self.patched_processor:
            return None
        if layer_of(processor) is self:
            self.patched_processor = processor  # one of ours that was put away and put back
            return None
        made = self.make_processor(processor)
        before, self.patched_processor = self.patched_processor, made
        self.module.set_processor(made)
        return None if before is None else processor

    def restore(self) -> Any:
        """Put the original back; return the module's processor where that is not ours."""
        if self.patched_processor is None:
            return None
        processor, self.patched_processor = self.module.processor, None
        if layer_of(processor) is not self:
            return processor
        self.module.set_processor(processor.attnpatch_original)
        return None


def layer_of(processor: object) -> Any:
    """Return the layer that a processor of ours was made for; None for all others."""
    return getattr(processor, "attnpatch_layer", None)
