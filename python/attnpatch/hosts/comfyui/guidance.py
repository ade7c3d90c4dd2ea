# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Guidance after classifier-free guidance: degraded passes through the host's own batching."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from attnpatch.engine import COND, UNCOND
from attnpatch.hosts.comfyui.host_batch import BATCH, areas_of
from attnpatch.hosts.comfyui.options import DEGRADED, SAMPLING
from attnpatch.hosts.comfyui.patched_model import PatchedModel
from attnpatch.hosts.comfyui.roles import ROLES, sigmas_of_step
from attnpatch.patches import AttentionRecord, DegradedPass, Guidance, degraded_passes, guide

__all__ = ["GuidanceFunction", "recorded_attention", "set_guidance"]

logger = logging.getLogger("attnpatch")

Conds = Sequence[Mapping[str, Any]]


def set_guidance(model: Any, group: PatchedModel) -> None:
    """Have a model guided by the patches of its slots; for a clone that belongs to us.

    It has one function of ours at most: one that is there is replaced.
    """
    options = model.model_options = dict(model.model_options)
    functions = list(options.get("sampler_post_cfg_function", ()))
    ours = [index for index, f in enumerate(functions) if isinstance(f, GuidanceFunction)]
    guidances = [
        patch for patch in group.run.stack if isinstance(patch, Guidance) and not patch.disabled
    ]
    if not guidances:
        return
    function = GuidanceFunction(group)
    if ours:
        functions[ours[0]] = function
    else:
        functions.append(function)
    options["sampler_post_cfg_function"] = functions
    if any(guidance.needs_uncond for guidance in guidances):
        options["disable_cfg1_optimization"] = True


def recorded_attention(model: Any) -> Tensor | None:
    """Return what the latest guided step recorded; see :func:`attnpatch.recorded_attention`."""
    functions = model.model_options.get("sampler_post_cfg_function", ())
    ours = [f.attention for f in functions if isinstance(f, GuidanceFunction)]
    return ours[-1] if ours else None


class GuidanceFunction:
    """The host calls it after classifier-free guidance; gives the guided prediction.

    Parameters
    ----------
    group
        Of the model's slots: says the patches and the time, and keeps the records of steps.
    """

    def __init__(self, group: PatchedModel) -> None:
        self.group = group
        self.attention: Tensor | None = None
        """What the latest step recorded, float32 (B, h, w)."""
        self._told: set[str] = set()

    def __call__(self, args: Mapping[str, Any]) -> Tensor:
        """Guide one step; all predictions are of the clean latent (B, C, H, W)."""
        guided, sigma = args["denoised"], args["sigma"]
        # Guiders may have more conditionings of its role, or others in its place.
        sources = {entry.get("uuid") for entry in args["uncond"] or ()}
        step = sigmas_of_step(args["model_options"], sigma)
        record = self.group.records.take(step).of(sources)
        sampling = getattr(args["model"], "model_sampling", None)
        points = self.group.schedule({"sigmas": sigma, SAMPLING: sampling})
        if any(point.sigma == 0 for point in points):
            return guided
        height, width = guided.shape[-2:]
        progress: Any = [point.progress for point in points]
        progress = progress if len(points) > 1 else progress[0]
        wanted = degraded_passes(self.group.run.stack, (height, width), progress)
        passes = [each for each in wanted if self._possible(each, args, record)]
        if not passes:
            return guided
        clean = {COND: args["cond_denoised"], UNCOND: args["uncond_denoised"]}
        saliency = None
        if any(each.guidance.records for each in passes):
            areas = areas_of(args["uncond"], (height, width))
            saliency = record.saliency(guided.shape[0], (height, width), areas)
            self.attention = saliency
        starts = [each.guidance.degrade(clean[each.role], saliency) for each in passes]
        # Noise is added to the picture, whatever it is: x = x0 + noise.
        inputs = [
            args["input"] + (start - clean[each.role]) if each.guidance.records else args["input"]
            for each, start in zip(passes, starts, strict=True)
        ]
        predictions = _predict(args, passes, inputs)
        uncond = None if args["uncond"] is None else clean[UNCOND]
        return guided + guide(guided, clean[COND], uncond, passes, starts, predictions)

    def _possible(
        self, wanted: DegradedPass, args: Mapping[str, Any], record: AttentionRecord
    ) -> bool:
        name = type(wanted.guidance).__name__
        if args["uncond" if wanted.role == UNCOND else "cond"] is None:
            self._tell(f"{name}: off, for there is no {'un' if wanted.role else ''}cond prediction")
            return False
        if wanted.guidance.records and not record:
            self._tell(
                f"{name}: off, for nothing was recorded: another patch took the place of ours at "
                f"the self-attention of {wanted.guidance.blocks}, or answered for the network"
            )
            return False
        return True

    def _tell(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            logger.warning(message)

    def __deepcopy__(self, memo: dict[int, Any]) -> GuidanceFunction:
        """Share all: what it does never changes."""
        return self

    def __repr__(self) -> str:
        return f"<GuidanceFunction of {self.group.run.stack!r}>"


def _predict(
    args: Mapping[str, Any], passes: Sequence[DegradedPass], inputs: Sequence[Tensor]
) -> list[Tensor]:
    """Run the degraded passes: those of one input in one call.

    Others take a cond and an uncond row of a call for a pair of one latent, and ControlNets and
    context windows read the input of the call: so passes of different inputs take turns.
    """
    predictions: dict[int, Tensor] = {}
    for x in {id(x): x for x in inputs}.values():
        group = [index for index, own in enumerate(inputs) if own is x]
        outputs = _call(args, [passes[index] for index in group], x)
        predictions |= zip(group, outputs, strict=True)
    return [predictions[index] for index in range(len(passes))]


def _call(args: Mapping[str, Any], passes: Sequence[DegradedPass], x: Tensor) -> list[Tensor]:
    """Run passes of one input in one call."""
    conds: list[Conds] = [args["uncond" if each.role == UNCOND else "cond"] for each in passes]
    # The first of each role stands where the host and others look for that role.
    order: list[int | None] = [None, None]
    for index, each in enumerate(passes):
        if order[each.role] is None:
            order[each.role] = index
        else:
            order.append(index)
    options = dict(args["model_options"])
    options["model_function_wrapper"] = _Marker(
        {i: passes[index] for i, index in enumerate(order) if index is not None},
        options.get("model_function_wrapper"),
    )
    in_order = [
        None if index is None else [_of_pass(entry, passes[index].index) for entry in conds[index]]
        for index in order
    ]
    while in_order[-1] is None:
        in_order.pop()
    calc_cond_batch = sys.modules["comfy.samplers"].calc_cond_batch
    outputs = calc_cond_batch(args["model"], in_order, x, args["sigma"], options)
    return [outputs[order.index(index)] for index in range(len(passes))]


@dataclass(frozen=True)
class _Marker:
    """Wraps the model's function: marks the chunks of a call as degraded.

    The host numbers chunks by their place among the conditionings; patches, ours and others', are
    to see what role they are of.
    """

    passes: Mapping[int, DegradedPass]
    wrapped: Callable[..., Tensor] | None

    def __call__(self, function: Callable[..., Tensor], args: Mapping[str, Any]) -> Tensor:
        """Call the model as the host would have."""
        passes = [self.passes[number] for number in args["cond_or_uncond"]]
        roles = [each.role for each in passes]
        conditioning = dict(args["c"])
        options = dict(conditioning["transformer_options"])
        options["cond_or_uncond"] = roles
        options.pop(ROLES, None)
        options[DEGRADED] = tuple(each.index for each in passes)
        conditioning["transformer_options"] = options
        if BATCH in options:
            options[BATCH] = replace(options[BATCH], roles=tuple(roles))
        if self.wrapped is None:
            return function(args["input"], args["timestep"], **conditioning)
        changed = {"c": conditioning, "cond_or_uncond": roles}
        return self.wrapped(function, {**args, **changed})


def _of_pass(entry: Mapping[str, Any], index: int) -> dict[str, Any]:
    """Return a conditioning with an identity of its own: caches keep what each gave."""
    return {**entry, "uuid": ("attnpatch", index, entry.get("uuid"))}
