# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Fills the replace slots of a model from a stack of patches, and finds what it filled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attnpatch.engine import Layer, LayerTable, PatchStack
from attnpatch.hosts.comfyui.host_batch import CalcCondBatchWrapper
from attnpatch.hosts.comfyui.joined_rows import ApplyModelWrapper
from attnpatch.hosts.comfyui.optimized_attention import OptimizedAttention
from attnpatch.hosts.comfyui.options import own_options
from attnpatch.hosts.comfyui.patched_model import PatchedModel, SamplingSchedule
from attnpatch.hosts.comfyui.roles import PredictNoiseWrapper
from attnpatch.hosts.comfyui.unet.attn_replace import (
    Attention,
    Attn1Patch,
    Attn1Replace,
    Attn2Patch,
    Attn2Replace,
    AttnReplace,
    replace_key,
)
from attnpatch.hosts.comfyui.unet.layers import context_channels
from attnpatch.hosts.comfyui.unet.other_packs import DiffusionModelWrapper
from attnpatch.hosts.host_call import HostCall


def install(
    model: Any,
    patches: Sequence[Any],
    *,
    table: LayerTable,
    schedule: Callable[[PatchStack], SamplingSchedule],
    host_attention: OptimizedAttention,
    only_free: bool = False,
    cond_or_uncond: Callable[[HostCall], Sequence[int]] | None = None,
) -> Any:
    """Return a clone of `model` with `patches` in its replace slots; `model` stays as it is.

    Patches of ours that the model already has stay, and the new ones come after them.

    Parameters
    ----------
    model
        A ``ModelPatcher``: has ``clone()`` and ``model_options``.
    patches
        What to add.
    table
        The model's attention layers.
    schedule
        Makes the schedule for the whole stack; see :class:`PatchedModel`.
    host_attention
        The host's own attention.
    only_free
        Leave slots alone in which something stands.
    cond_or_uncond
        What a user tells of the rows of a call; None: the host tells.
    """
    clone = model.clone()
    old = find_patched_model(clone)
    stack = PatchStack(old.run.stack if old else ()) + patches
    told = cond_or_uncond or (old.cond_or_uncond if old else None)
    run = stack.bind(table)
    channels = context_channels(model.model.diffusion_model, table)
    if channels is not None:
        run.check_context(channels)
    group = PatchedModel(run, schedule(stack), host_attention, told)
    made: list[AttnReplace] = []
    for make in (Attn2Replace, Attn1Replace):
        layers = group.layers[make.attention]
        slots = own_replacements(clone, make.attention) if layers else {}
        for layer in table:
            if layer in layers and not (only_free and _finds(slots, layer)):
                slots[replace_key(layer)] = slot = _make_slot(make, layer, group, slots)
                made.append(slot)
    if group.run.reduces:
        _set_input_patch(clone, Attn1Patch(group, [s for s in made if isinstance(s, Attn1Replace)]))
    if group.run.guides_text or group.run.names_words:
        _set_input_patch(clone, Attn2Patch(group, [s for s in made if isinstance(s, Attn2Replace)]))
    if not made:
        return clone
    slots = [(s.attention, replace_key(s.layer), s.layer.index) for s in made]
    observers = {
        "diffusion_model": DiffusionModelWrapper(slots, group),
        "apply_model": ApplyModelWrapper(group.run.tells_roles_apart, group.cond_or_uncond),
        "calc_cond_batch": CalcCondBatchWrapper(),
        "predict_noise": PredictNoiseWrapper(),
    }
    for name, observer in observers.items():
        own_options(clone, "transformer_options", "wrappers", name)["attnpatch"] = [observer]
    return clone


def _finds(slots: Mapping[tuple[Any, ...], Attention], layer: Layer) -> bool:
    """Whether the host finds a callable for a layer: its own, or else the whole block's."""
    return replace_key(layer) in slots or replace_key(layer)[:2] in slots


def _make_slot(
    make: type[AttnReplace],
    layer: Layer,
    group: PatchedModel,
    slots: Mapping[tuple[Any, ...], Attention],
) -> AttnReplace:
    """Return a slot of ours that does as well what stands there."""
    before, block = slots.get(replace_key(layer)), slots.get(replace_key(layer)[:2])
    if not isinstance(before, AttnReplace):
        hides = before is not None and block is not None
        return make(layer, group, block if before is None else before, hides)
    hidden = before.hides or block is None
    made = make(layer, group, before.previous if hidden else block, before.hides)
    if isinstance(made, Attn2Replace) and isinstance(before, Attn2Replace):
        made.added = list(before.added)
    return made


def find_patched_model(model: Any) -> PatchedModel | None:
    """Return what the slots of a patched model share; None if we have none in it."""
    replaced = model.model_options.get("transformer_options", {}).get("patches_replace", {})
    for attention in ("attn2", "attn1"):
        for slot in replaced.get(attention, {}).values():
            if isinstance(slot, AttnReplace):
                return slot.group
    return None


def own_replacements(model: Any, attention: str = "attn2") -> dict[tuple[Any, ...], Attention]:
    """Return the replace slots of `model` after making sure that they are its own."""
    return own_options(model, "transformer_options", "patches_replace", attention)


def _set_input_patch(model: Any, patch: Attn1Patch | Attn2Patch) -> None:
    patches = own_options(model, "transformer_options", "patches")
    name = "attn1_patch" if isinstance(patch, Attn1Patch) else "attn2_patch"
    others = [p for p in patches.get(name, ()) if not isinstance(p, type(patch))]
    patches[name] = [*others, patch]
