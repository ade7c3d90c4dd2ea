# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Patches in a model of ComfyUI: its layers, its schedule, its attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

from attnpatch.engine import JointTable, LayerTable, Patch, PatchStack, Report
from attnpatch.hosts.comfyui.clones import separate_clones
from attnpatch.hosts.comfyui.guidance import set_guidance
from attnpatch.hosts.comfyui.optimized_attention import OptimizedAttention
from attnpatch.hosts.comfyui.patched_model import PatchedModel
from attnpatch.hosts.comfyui.schedule import SigmaSchedule
from attnpatch.hosts.comfyui.transformer.families import FAMILIES, family_of, layer_table
from attnpatch.hosts.comfyui.transformer.install import find_transformer, install_in_transformer
from attnpatch.hosts.comfyui.unet.install import find_patched_model, install
from attnpatch.hosts.comfyui.unet.layers import has_sd_names, read_layer_table
from attnpatch.hosts.host_call import CondOrUncond

# For each program that has ComfyUI's model patcher: where its classes and its attention live.
_PROGRAMS = {
    "comfy": OptimizedAttention("comfy.ldm.modules.attention"),
    "backend": OptimizedAttention("backend.attention", "attention_function"),  # Forge
}


def is_host(model: Any) -> bool:
    """Whether `model` is a ``ModelPatcher`` of ComfyUI or a kind of it; told without importing."""
    return _program(model) is not None


def patch_model(
    model: Any,
    patches: Patch | Sequence[Patch],
    *,
    cond_or_uncond: CondOrUncond | None = None,
    only_free: bool = False,
) -> Any:
    """Return a clone of `model` with patches; `model` stays as it is.

    Parameters
    ----------
    model
        A ``ModelPatcher`` with a UNet of Stable Diffusion, or with a transformer that is known.
        Patches that it has stay.
    patches
        One patch, a sequence of patches, or a ``PatchStack``.
    cond_or_uncond
        None: the host itself tells in every call. A callable is asked in every call instead, for
        wrappers of other packs that join rows in ways of their own; see ``HostCall``.
    only_free
        Leave layers alone that have another patch.

    Raises
    ------
    TypeError
        If its network is of no family that is known; the message lists those.
    ValueError
        If the patches are made for other layers; the message names both.
    """
    if cond_or_uncond is not None and not callable(cond_or_uncond):
        raise ValueError(
            "cond_or_uncond: ComfyUI tells it in every call; expected None or a callable that is "
            f"asked instead, got {cond_or_uncond!r}"
        )
    family = family_of(model.model.diffusion_model)
    if family is not None:
        if only_free:
            raise ValueError(
                "only_free: expected False, for the one override of a transformer's attention is "
                "shared by all packs, got True"
            )
        return install_in_transformer(
            model,
            PatchStack(patches),
            family=family,
            schedule=lambda stack: SigmaSchedule(model.model, _marks(stack)),
            host_attention=_PROGRAMS[_program(model)],
            cond_or_uncond=cond_or_uncond,
        )
    clone = install(
        model,
        PatchStack(patches),
        table=read_layer_table(unet_of(model)),
        schedule=lambda stack: SigmaSchedule(model.model, _marks(stack)),
        host_attention=_PROGRAMS[_program(model)],
        only_free=only_free,
        cond_or_uncond=cond_or_uncond,
    )
    group = find_patched_model(clone)
    if group is not None:
        set_guidance(clone, group)
        separate_clones(clone)
    return clone


def attach(model: Any, *_: Any, **__: Any) -> NoReturn:
    """Raise TypeError: models of this host are cloned, not changed."""
    raise TypeError(
        f"model: a {type(model).__qualname__} of ComfyUI is not patched in place; "
        "use patch_model, which gives a patched clone"
    )


def detach(model: Any) -> NoReturn:
    """Raise TypeError: models of this host are cloned, not changed."""
    raise TypeError(
        f"model: a {type(model).__qualname__} of ComfyUI is not patched in place, so that there is "
        "nothing to detach; patch_model left the model that it was given as it was: use that one"
    )


def attached(model: Any) -> PatchStack:
    """Return the patches that a clone has, in order."""
    group = _patched(model)
    return PatchStack() if group is None else group.run.stack


def report(model: Any) -> Report:
    """Return which layers of a model are patched, and which are not and why."""
    group = _patched(model)
    run = PatchStack().bind(_table(model)) if group is None else group.run
    family = family_of(model.model.diffusion_model)
    return replace(run.report(), spans=() if family is None else family.spans)


def _patched(model: Any) -> PatchedModel | None:
    return find_patched_model(model) or find_transformer(model)


def _program(model: Any) -> str | None:
    for base in type(model).__mro__:
        top, _, rest = base.__module__.partition(".")
        if top == "comfy" or (top == "backend" and rest.startswith("patcher")):
            return top if hasattr(model, "model_options") else None
    return None


def _table(model: Any) -> LayerTable | JointTable:
    network = model.model.diffusion_model
    family = family_of(network)
    return read_layer_table(unet_of(model)) if family is None else layer_table(network, family)


def unet_of(model: Any) -> Any:
    """Return the network of a model, which is to be a UNet; else TypeError."""
    unet = model.model.diffusion_model
    if not has_sd_names(unet):
        raise TypeError(
            "model: expected a UNet of SD1.x, SD2.x, SDXL or a relative of them, or a transformer "
            f"of {', '.join(sorted(name for _, name in FAMILIES))}; got a network that is a "
            f"{type(unet).__name__}"
        )
    return unet


def _marks(stack: PatchStack) -> set[float]:
    """Return the starts and ends of patches."""
    marks = {getattr(patch, name, None) for patch in stack for name in ("start", "end")}
    return {float(mark) for mark in marks if mark is not None}
