# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Attach patches to a pipeline or UNet of diffusers, or make a patched copy of it."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace as replaced
from typing import Any

from torch import Tensor

from attnpatch.engine import Patch, PatchStack, Report
from attnpatch.engine.joint_layers import Table
from attnpatch.hosts.diffusers.copying import copy_pipeline
from attnpatch.hosts.diffusers.denoisers import unpatched_denoisers, unpatched_unets
from attnpatch.hosts.diffusers.patched_model import PatchedModel
from attnpatch.hosts.diffusers.row_folding import Folding, folded_rows
from attnpatch.hosts.diffusers.sharing import share_weights
from attnpatch.hosts.diffusers.transformer.patched_transformer import PatchedTransformer
from attnpatch.hosts.diffusers.unet.patched_unet import PatchedUNet
from attnpatch.hosts.host_call import CondOrUncond
from attnpatch.hosts.recognition import (
    described,
    diffusers_denoiser,
    is_kind_of,
    is_unet,
    unwrapped,
    wrapping,
)
from attnpatch.shown import Shown

Patches = Patch | Sequence[Patch]

logger = logging.getLogger("attnpatch")


class Attachment(Shown):
    """Patches that are attached to a UNet or transformer, until `detach` or the end of a ``with``.

    They belong to that. A pipeline that is given another one (``pipeline.unet = other``) runs
    without them, which `in_use` and `repr` say; the first one keeps them.

    Attributes
    ----------
    stack : PatchStack
        What was attached.
    report : Report
        The layers wanted, matched, and skipped with reasons; and other denoisers that the pipeline
        holds, which stay without patches.
    """

    _shown_by = "attachment"

    def __init__(
        self,
        denoiser: Any,
        pipeline: Any,
        stack: PatchStack,
        cond_or_uncond: CondOrUncond | None,
        replace: bool = False,
    ) -> None:
        patched = _patched(denoiser)
        self.stack = stack
        self.report: Report = _complete(
            stack.bind(patched.table).report(), patched, pipeline, denoiser
        )
        self._denoiser = denoiser
        self._pipeline = None if pipeline is None else weakref.ref(pipeline)
        self._patched: PatchedModel | None = patched
        self._attention: Tensor | None = None
        before = list(patched.stacks) if replace else []
        patched.add(self, stack, denoiser, pipeline, cond_or_uncond, replace=replace)
        for key in before:
            _forget(key)
        if beside := unpatched_unets(pipeline, denoiser) if pipeline is not None else ():
            logger.warning(
                "attach: the %s holds another %s, which its calls may run without patches: %s; "
                "attach patches to that as well where they are meant for both",
                type(pipeline).__name__,
                self._noun,
                ", ".join(beside),
            )

    @property
    def _noun(self) -> str:
        return "UNet" if is_unet(self._denoiser) else "transformer"

    @property
    def attention(self) -> Tensor | None:
        """What self-attention guidance recorded in the latest step, float32 (B, h, w).

        For each token how much attention it got: 1 is as much as the others on average. None before
        the first step, and without that guidance. See :func:`attnpatch.show_attention`.
        """
        return self._attention if self._patched is None else self._patched.attention

    @property
    def attached(self) -> bool:
        """Whether the UNet has these patches: neither this `detach` nor anything else took them."""
        return self._patched is not None

    @property
    def in_use(self) -> bool:
        """Whether what was given to `attach` runs with these patches.

        False once they are detached, and while the pipeline has another UNet.
        """
        return self.attached and not self._elsewhere

    @property
    def _elsewhere(self) -> bool:
        pipeline = self._pipeline and self._pipeline()
        return pipeline is not None and diffusers_denoiser(pipeline) is not self._denoiser

    def detach(self) -> None:
        """Take these patches off. With the last ones the UNet's own processors are put back.

        Patches attached at other times stay, in whatever order they are detached. A second call
        does nothing, nor does one after :func:`attnpatch.detach` or ``attach(…, replace=True)``.
        """
        patched = self._patched
        if patched is not None:
            patched.remove(self, self._denoiser)
            self._forget()

    def _forget(self) -> None:
        """Know that the patches are gone from the UNet."""
        self._attention, self._patched = self.attention, None

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def __repr__(self) -> str:
        state = "attached to" if self.attached else "detached from"
        state = f"{state} {type(self._denoiser).__name__}"
        pipeline = self._pipeline and self._pipeline()
        if self.attached and self._elsewhere:
            name = type(pipeline).__name__
            state += f"; not in use, since the {name} has another {self._noun} now"
        return f"<Attachment {self.stack!r}, {state}>"


def attach(
    model: Any,
    patches: Patches,
    *,
    cond_or_uncond: CondOrUncond | None = None,
    replace: bool = False,
) -> Attachment:
    """Attach patches to `model` in place; see :func:`attnpatch.attach`."""
    denoiser = _denoiser_of(model)
    _check_whole_batches(model)
    pipeline = None if unwrapped(model) is denoiser else model
    return Attachment(denoiser, pipeline, PatchStack(patches), cond_or_uncond, replace)


def detach(model: Any) -> None:
    """Take everything off that is attached to `model`; see :func:`attnpatch.detach`."""
    denoiser = _denoiser_of(model)
    patched = PatchedModel.of(denoiser)
    if patched is not None:
        before = list(patched.stacks)
        patched.clear(denoiser)
        for key in before:
            _forget(key)


def attached(model: Any) -> PatchStack:
    """Return what is attached to `model`; see :func:`attnpatch.attached`."""
    patched = PatchedModel.of(_denoiser_of(model))
    return PatchStack() if patched is None else patched.stack


def patch_model(model: Any, patches: Patches, *, cond_or_uncond: CondOrUncond | None = None) -> Any:
    """Return a patched copy that shares all weights; see :func:`attnpatch.patch_model`."""
    denoiser = _denoiser_of(model)
    twin = share_weights(model) if unwrapped(model) is denoiser else copy_pipeline(model)
    attach(twin, patches, cond_or_uncond=cond_or_uncond)
    return twin


@contextmanager
def fold_rows(model: Any, folding: Folding) -> Iterator[None]:
    """While this runs, a patched UNet computes one row of each set of equal ones.

    Parameters
    ----------
    model
        A pipeline or UNet that something is attached to. Transformers compute all rows.
    folding
        Called once in each call of the UNet with where it stands in sampling and the latent's
        height and width; gives for each latent the first one that is equal to it.
    """
    patched = PatchedModel.of(_denoiser_of(model))
    if patched is None:
        raise ValueError("model: expected one that patches are attached to")
    with folded_rows(patched, folding):
        yield


def layers_of(model: Any) -> Table:
    """Return the layers of `model` that patches are fitted to.

    Parameters
    ----------
    model
        A pipeline of diffusers, or its UNet or transformer.

    Returns
    -------
    LayerTable or JointTable
        What ``PatchStack.bind`` takes.

    Raises
    ------
    TypeError
        For a model of another kind.
    """
    return _patched(_denoiser_of(model)).table


def report(model: Any) -> Report:
    """Say where the patches of `model` act; see :func:`attnpatch.report`."""
    denoiser = _denoiser_of(model)
    patched = _patched(denoiser)
    return _complete(patched.report(), patched, model, denoiser)


def recorded_attention(model: Any) -> Tensor | None:
    """Return what the latest guided step recorded; see :func:`attnpatch.recorded_attention`."""
    patched = PatchedModel.of(_denoiser_of(model))
    return None if patched is None else patched.attention


def _patched(denoiser: Any) -> PatchedModel:
    """Return what is attached to a denoiser, or what nothing is attached to yet."""
    patched_type = PatchedUNet if is_unet(denoiser) else PatchedTransformer
    return PatchedModel.of(denoiser) or patched_type(denoiser)


def _complete(report: Report, patched: PatchedModel, pipeline: Any, denoiser: Any) -> Report:
    """Add what the pipeline holds beside the denoiser that was looked at, and its tokens."""
    unpatched = unpatched_denoisers(pipeline, denoiser)
    return replaced(report, unpatched=unpatched, spans=patched.spans)


def _forget(key: object) -> None:
    """Tell the handle of patches that are gone, if there is one: copies have none."""
    if isinstance(key, Attachment):
        key._forget()


def _check_whole_batches(model: Any) -> None:
    """Raise TypeError where a call of the UNet is given some rows of a batch alone."""
    held = (model, getattr(model, "unet", None), getattr(model, "transformer", None))
    for wrapper in (wrapper for module in held for wrapper in wrapping(module)):
        devices = getattr(wrapper, "device_ids", None) or ()
        if is_kind_of(wrapper, "DataParallel") and len(devices) > 1:
            raise TypeError(
                f"model: expected a model that is given whole batches, got DataParallel over "
                f"{len(devices)} devices, which scatters their rows, so that it cannot be known "
                "which are cond and which uncond; use one device, or DistributedDataParallel"
            )


def _denoiser_of(model: Any) -> Any:
    denoiser = diffusers_denoiser(model)
    if denoiser is None:
        raise TypeError(
            f"model: expected a pipeline with a UNet or a transformer of diffusers, or one of "
            f"those, got {described(model)}"
        )
    return denoiser
