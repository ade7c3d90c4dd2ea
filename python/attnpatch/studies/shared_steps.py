# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Which rows of a batch are equal so far, so that the model computes one for all of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from attnpatch.engine import Patch, SamplingPoint, Weight
from attnpatch.engine.window import is_active
from attnpatch.patches import Guidance, ImagePrompt, joint_key

__all__ = ["SharedSteps"]

Act = Callable[[float | None, tuple[int, int]], Hashable]
"""What a patch does at a progress, on a latent of this size; None: nothing."""


class SharedSteps:
    """Follows the rows of one run of a pipeline, call by call.

    Two rows are equal as long as they began with the same noise and text, and their patches did the
    same in every call: nothing, before the first of them is in its window. From the first call on
    in which they differ they stay apart.

    Parameters
    ----------
    starts
        For each row what it begins with.
    stacks
        For each row its patches.

    Attributes
    ----------
    rows, computed : int
        How many rows all calls had, and how many of those were not equal to another one.
    calls : list
        Where each call stood in sampling, and the latent's size.
    """

    def __init__(self, starts: Sequence[Hashable], stacks: Sequence[Sequence[Patch]]) -> None:
        self._labels = _numbered(starts)
        self._stacks = [tuple(map(_act_of, stack)) for stack in stacks]
        self.rows = self.computed = 0
        self.calls: list[tuple[SamplingPoint, tuple[int, int]]] = []

    def __call__(self, point: SamplingPoint, latent: tuple[int, int]) -> list[int]:
        """Return for each row the first one that is equal to it, after a call at this point."""
        acts = ([act(point.progress, latent) for act in stack] for stack in self._stacks)
        now = [tuple(act for act in stack if act is not None) for stack in acts]
        self._labels = _numbered(list(zip(self._labels, now, strict=True)))
        firsts: dict[int, int] = {}
        found = [firsts.setdefault(label, row) for row, label in enumerate(self._labels)]
        self.calls.append((point, latent))
        self.rows += len(found)
        self.computed += len(firsts)
        return found


def _numbered(values: Sequence[Hashable]) -> list[int]:
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(value, len(numbers)) for value in values]


class _ImagePromptAct:
    def __init__(self, prompt: ImagePrompt) -> None:
        self._prompt = prompt
        mask = None if prompt.mask is None else (*prompt.mask.shape, prompt.mask.numpy().tobytes())
        always = prompt.replace(start=0.0, end=1.0, weight=_plain_weight(prompt))
        self._what = joint_key(always), id(prompt.keys_values), mask
        (factor,) = prompt.weight.samples or (1.0,)
        self._scale = prompt.weight.scale * factor

    def __call__(self, progress: float | None, latent: tuple[int, int]) -> Hashable:
        prompt = self._prompt
        if not is_active(prompt.window, progress):
            return None
        scale = self._scale * prompt.weight.factor(progress)
        if scale == 0 and prompt.compat != "fooocus":
            return None
        return self._what, scale


class _GuidanceAct:
    def __init__(self, guidance: Guidance) -> None:
        self._guidance = guidance

    def __call__(self, progress: float | None, latent: tuple[int, int]) -> Hashable:
        # Rows of a batch have guidance that differs in nothing but its scale.
        if not self._guidance.acts(latent, progress):
            return None
        return self._guidance.strength(progress)


def _plain_weight(prompt: ImagePrompt) -> Weight:
    return Weight(1.0, prompt.weight.layers)


def _act_of(patch: Patch) -> Act:
    if isinstance(patch, ImagePrompt):
        return _ImagePromptAct(patch)
    if isinstance(patch, Guidance):
        return _GuidanceAct(patch)
    return lambda progress, latent: None  # the same in all rows
