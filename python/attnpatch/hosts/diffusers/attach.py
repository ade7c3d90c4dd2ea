# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Attach patches to a pipeline or UNet of diffusers, or make a patched copy of it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from attnpatch.hosts.diffusers.identity_control import follow, has_identity
from attnpatch.hosts.diffusers.patching import Patching
from attnpatch.hosts.host_call import CondOrUncond
from attnpatch.hosts.recognition import diffusers_unet, unwrapped
from attnpatch.patches import Patch, PatchStack, Report

Patches = Patch | Sequence[Patch]


class Attachment:
    """Patches that are attached to a UNet, until `detach` or the end of a ``with`` block.

    Attributes
    ----------
    stack : PatchStack
        What was attached.
    report : Report
        The layers wanted, matched, and skipped with reasons.
    """

    def __init__(
        self, unet: Any, pipeline: Any, stack: PatchStack, cond_or_uncond: CondOrUncond | None
    ) -> None:
        patching = Patching.of(unet) or Patching(unet)
        self.stack = stack
        self.report: Report = stack.bind(patching.table).report()
        self._unet = unet
        self._patching: Patching | None = patching
        self._attention: Tensor | None = None
        patching.add(self, stack, unet, pipeline, cond_or_uncond)

    @property
    def attention(self) -> Tensor | None:
        """What self-attention guidance recorded in the latest step, float32 (B, h, w).

        For each token how much attention it got: 1 is as much as the others on average. None before
        the first step, and without that guidance. See :func:`attnpatch.show_attention`.
        """
        return self._attention if self._patching is None else self._patching.attention

    @property
    def attached(self) -> bool:
        """Whether `detach` was not called yet."""
        return self._patching is not None

    def detach(self) -> None:
        """Take these patches off. With the last ones the UNet's own processors are put back.

        Patches attached at other times stay, in whatever order they are detached. A second call
        does nothing.
        """
        patching, self._patching = self._patching, None
        if patching is not None:
            self._attention = patching.attention
            patching.remove(self, self._unet)

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def __repr__(self) -> str:
        state = "attached to" if self.attached else "detached from"
        return f"<Attachment {self.stack!r}, {state} {type(self._unet).__name__}>"


def attach(
    model: Any, patches: Patches, *, cond_or_uncond: CondOrUncond | None = None
) -> Attachment:
    """Attach patches to `model` in place; see :func:`attnpatch.attach`."""
    unet = _unet_of(model)
    pipeline = None if unwrapped(model) is unet else model
    return Attachment(unet, pipeline, PatchStack(patches), cond_or_uncond)


def patch_model(model: Any, patches: Patches, *, cond_or_uncond: CondOrUncond | None = None) -> Any:
    """Return a patched copy that shares all weights; see :func:`attnpatch.patch_model`."""
    unet = _unet_of(model)
    twin = share_weights(unet) if unwrapped(model) is unet else copy_pipeline(model)
    attach(twin, patches, cond_or_uncond=cond_or_uncond)
    return twin


def copy_pipeline(model: Any) -> Any:
    """Copy a pipeline, patched or not: both share all weights, and can run at the same time."""
    pipeline = copy.copy(model)
    pipeline.unet = share_weights(_unet_of(model))
    if getattr(model, "scheduler", None) is not None:
        # Schedulers count steps: each pipeline needs its own.
        pipeline.scheduler = copy.deepcopy(model.scheduler)
    patching = Patching.of(_unet_of(pipeline))
    if patching is not None:
        patching.follow(pipeline)
    if has_identity(model):
        pipeline.controlnet = share_weights(model.controlnet)
        follow(pipeline)
    return pipeline


def report(model: Any) -> Report:
    """Say where the patches of `model` act; see :func:`attnpatch.report`."""
    unet = _unet_of(model)
    return (Patching.of(unet) or Patching(unet)).report()


def recorded_attention(model: Any) -> Tensor | None:
    """Return what the latest guided step recorded; see :func:`attnpatch.recorded_attention`."""
    patching = Patching.of(_unet_of(model))
    return None if patching is None else patching.attention


def share_weights(module: Any) -> Any:
    """Copy the tree of modules of `module`: other modules, the very same parameters and buffers."""
    memo: dict[int, Any] = {}
    for part in module.modules():
        kept = [*part._parameters.values(), *part._buffers.values()]
        kept.append(part.__dict__.get("_hf_hook"))  # accelerate's: they know no module
        memo.update((id(value), value) for value in kept if value is not None)
    return copy.deepcopy(module, memo)


def _unet_of(model: Any) -> Any:
    unet = diffusers_unet(model)
    if unet is None:
        raise TypeError(
            f"model: expected a pipeline with a UNet, or a UNet, got {type(model).__name__}"
        )
    return unet
