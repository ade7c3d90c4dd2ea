# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Puts patches into a clone of a transformer's model patcher, and finds them there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from attnpatch.engine import PatchStack
from attnpatch.hosts.comfyui.host_batch import CalcCondBatchWrapper
from attnpatch.hosts.comfyui.joined_rows import ApplyModelWrapper
from attnpatch.hosts.comfyui.optimized_attention import OptimizedAttention
from attnpatch.hosts.comfyui.options import own_options
from attnpatch.hosts.comfyui.patched_model import PatchedModel, SamplingSchedule
from attnpatch.hosts.comfyui.roles import PredictNoiseWrapper
from attnpatch.hosts.comfyui.transformer.families import Family, layer_table
from attnpatch.hosts.comfyui.transformer.override import (
    OVERRIDE,
    AttentionOverride,
    TransformerWrapper,
)
from attnpatch.hosts.host_call import HostCall

__all__ = ["find_transformer", "install_in_transformer"]


def install_in_transformer(
    model: Any,
    patches: Sequence[Any],
    *,
    family: Family,
    schedule: Callable[[PatchStack], SamplingSchedule],
    host_attention: OptimizedAttention,
    cond_or_uncond: Callable[[HostCall], Sequence[int]] | None = None,
) -> Any:
    """Return a clone of `model` with `patches`; `model` stays as it is.

    Patches of ours that the model already has stay, and the new ones come after them. An override
    of attention that stands there keeps computing it.

    Parameters
    ----------
    model, patches, schedule, host_attention, cond_or_uncond
        As for a UNet; see ``unet.install.install``.
    family
        Of the network.
    """
    clone = model.clone()
    old = find_transformer(clone)
    stack = PatchStack(old.run.stack if old else ()) + patches
    told = cond_or_uncond or (old.cond_or_uncond if old else None)
    table = layer_table(model.model.diffusion_model, family)
    group = PatchedModel(stack.bind(table), schedule(stack), host_attention, told)
    options = own_options(clone, "transformer_options")
    previous = options.get(OVERRIDE)
    if isinstance(previous, AttentionOverride):
        previous = previous.previous
    if not group.run.layers:
        return clone
    options[OVERRIDE] = AttentionOverride(group, previous)
    observers: dict[str, list[Any]] = {
        "calc_cond_batch": [CalcCondBatchWrapper()],
        "predict_noise": [PredictNoiseWrapper()],
        "apply_model": [ApplyModelWrapper(group.run.tells_roles_apart, group.cond_or_uncond)],
        "diffusion_model": [],
    }
    observers[family.place].append(TransformerWrapper(group, family))
    for place, these in observers.items():
        own_options(clone, "transformer_options", "wrappers", place)["attnpatch"] = these
    return clone


def find_transformer(model: Any) -> PatchedModel | None:
    """Return what is patched in a transformer; None if we have nothing in it."""
    override = model.model_options.get("transformer_options", {}).get(OVERRIDE)
    return override.group if isinstance(override, AttentionOverride) else None
