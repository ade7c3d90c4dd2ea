# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Hosts: programs whose models take patches. They are recognised without importing them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from attnpatch.adapters import ImageEmbeds
from attnpatch.engine import Patch, PatchStack, Report
from attnpatch.hosts import comfyui, fooocus
from attnpatch.hosts.host_call import CondOrUncond
from attnpatch.hosts.prompts import (
    PromptPatches,
    reference_strength,
    regional_prompts,
    word_weights,
)
from attnpatch.hosts.recognition import TRANSFORMERS, described, diffusers_denoiser

if TYPE_CHECKING:
    from torch import Tensor

    from attnpatch.hosts.diffusers import Attachment

__all__ = [
    "PromptPatches",
    "attach",
    "attached",
    "detach",
    "identity_control",
    "patch_model",
    "recorded_attention",
    "reference_strength",
    "regional_prompts",
    "report",
    "word_weights",
]


def attach(
    model: Any,
    patches: Patch | Sequence[Patch],
    *,
    cond_or_uncond: CondOrUncond | None = None,
    replace: bool = False,
) -> Attachment:
    """Attach patches to a model in place, until they are detached.

    Attaching to a model that has patches adds to them, unless `replace` is given; it warns where an
    equal patch is there already. What the model has beside (LoRA,
    ControlNet, an IP-Adapter of its own, other attention processors) keeps working: terms are
    added to it.

    Parameters
    ----------
    model
        A pipeline or UNet of diffusers. Whichever pipeline runs the UNet then says which rows of a
        batch are uncond, and where sampling stands. The UNet may be in wrappers (compiled,
        DistributedDataParallel, FSDP), and attached before or after it is wrapped.
    patches
        One patch, a sequence of patches, or a `PatchStack`.
    cond_or_uncond
        The role of each equal chunk of a batch, or of each row, 0 cond and 1 uncond; ``(1, 0)`` for
        the batches [uncond, cond] of classifier-free guidance. Or a callable that gives this for a
        call: it is handed a ``HostCall``. By default the pipeline that runs tells.
    replace
        Take off all that was attached before, whoever attached it: the cell of a notebook may then
        be run again. Where the new patches do not fit, the old ones stay.

    Returns
    -------
    Attachment
        With `detach`, `report` and `stack`; a context manager that detaches at its end. It belongs
        to the UNet: `in_use` says whether the pipeline has that one still.

    Raises
    ------
    TypeError
        If `model` is of no known kind, or DataParallel scatters its batches over devices.
    ValueError
        If the patches are made for other layers than the model has. When the model runs: where
        nobody tells which rows are cond and which uncond, and the patches tell them apart.

    Examples
    --------
    >>> with attach(pipeline, ImagePrompt(adapter, embeds, 0.8)) as attached:
    ...     print(attached.report)
    ...     image = pipeline("a cat").images[0]
    """
    return _host_of(model).attach(model, patches, cond_or_uncond=cond_or_uncond, replace=replace)


def detach(model: Any) -> None:
    """Take off all that was attached to a model, whoever attached it.

    The model is then as it was before. Where nothing is attached, nothing happens. The handles
    that `attach` gave say that they are detached.

    Parameters
    ----------
    model
        A pipeline or UNet of diffusers, also one that `patch_model` gave. Of a pipeline the UNet
        that it has now.

    Raises
    ------
    TypeError
        If `model` is of no known kind, or a model of ComfyUI or Fooocus, which are not changed in
        place: the model that was given to `patch_model` has no patches.
    """
    _host_of(model).detach(model)


def attached(model: Any) -> PatchStack:
    """Return all patches that a model has, in order; an empty stack where there are none.

    Parameters
    ----------
    model
        As for `patch_model`; of a pipeline the UNet that it has now.

    Raises
    ------
    TypeError
        If `model` is of no known kind.
    """
    return _host_of(model).attached(model)


def patch_model(
    model: Any,
    patches: Patch | Sequence[Patch],
    *,
    cond_or_uncond: CondOrUncond | None = None,
) -> Any:
    """Return a patched copy of a model that shares all of its weights; `model` stays as it is.

    Patching a patched model adds to its patches.

    Parameters
    ----------
    model, patches, cond_or_uncond
        As for :func:`attach`. The copy of a pipeline has a scheduler of its own, so that both can
        run at the same time; by turns where hooks move or cast the weights that they share, as
        offloading does. `model` may also be a ``ModelPatcher`` of ComfyUI or Fooocus.

    Returns
    -------
    pipeline or UNet
        The very same parameters and buffers in another tree of modules; the UNet in no wrapper.

    Raises
    ------
    TypeError, ValueError
        As for :func:`attach`; and TypeError where FSDP has sharded the weights.
    """
    return _host_of(model).patch_model(model, patches, cond_or_uncond=cond_or_uncond)


def identity_control(pipeline: Any, embeds: ImageEmbeds, *, which: int = 0) -> Any:
    """Return a copy of a ControlNet pipeline of diffusers whose ControlNet is shown a face.

    InstantID's ControlNet attends to the face's tokens instead of the text. Its picture is that of
    ``attnpatch.faces.draw_keypoints``.

    Parameters
    ----------
    pipeline
        Patched or not; it stays as it is.
    embeds
        What ``get_identity_embeds`` gives.
    which
        Which ControlNet of several is InstantID's.

    Raises
    ------
    TypeError, ValueError
        Without such a ControlNet, or where it takes tokens of another size.
    """
    return import_module("attnpatch.hosts.diffusers").identity_control(
        pipeline, embeds, which=which
    )


def report(model: Any) -> Report:
    """Return which layers of a model are patched, and which are not and why.

    Raises
    ------
    TypeError
        If `model` is of no known kind.
    """
    return _host_of(model).report(model)


def recorded_attention(model: Any) -> Tensor | None:
    """Return what self-attention guidance recorded in the latest step of a patched model.

    Parameters
    ----------
    model
        A diffusers pipeline or UNet, or a ``ModelPatcher`` of ComfyUI.

    Returns
    -------
    Tensor or None
        float32 (samples, h, w): for each token how much attention it got, 1 being as much as the
        others on average; :func:`attnpatch.show_attention` draws it. None before the first step,
        and without that guidance.

    Raises
    ------
    TypeError
        If `model` is of no known kind, or of a host without guidance.
    """
    host = _host_of(model)
    if not hasattr(host, "recorded_attention"):
        raise TypeError(f"model: a {type(model).__qualname__} of Fooocus takes no guidance")
    return host.recorded_attention(model)


def _host_of(model: Any) -> Any:
    if diffusers_denoiser(model) is not None:
        # Imported with its first model: like diffusers it needs torch's compiler, which is large.
        return import_module("attnpatch.hosts.diffusers")
    for host in (comfyui, fooocus):
        if host.is_host(model):
            return host
    raise TypeError(
        "model: expected a diffusers pipeline or UNet with down_blocks, mid_block and up_blocks "
        f"(SD1.x, SD2.x, SDXL), one with a transformer ({', '.join(TRANSFORMERS)}), or a "
        f"ModelPatcher of ComfyUI or Fooocus, "
        f"got {described(model)}"
    )
