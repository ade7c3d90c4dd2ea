# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""InstantID's ControlNet in a plain pipeline: it attends to the face's tokens, not to the text."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from attnpatch.adapters import ImageEmbeds
from attnpatch.hosts.diffusers.rows import rows_of
from attnpatch.hosts.diffusers.running import running_pipeline
from attnpatch.hosts.host_call import HostCall, Rows
from attnpatch.hosts.recognition import unwrapped
from attnpatch.patches import COND

__all__ = ["follow", "has_identity", "identity_control"]

_ATTRIBUTE = "_attnpatch_identity"


def identity_control(pipeline: Any, embeds: ImageEmbeds, *, which: int = 0) -> Any:
    """Return a copy of a ControlNet pipeline whose ControlNet is shown a face.

    The pipeline's picture for the ControlNet is then that of `draw_keypoints`.

    Parameters
    ----------
    pipeline
        A pipeline of diffusers with a ControlNet, such as ``StableDiffusionXLControlNetPipeline``,
        patched or not; it stays as it is, and the copy shares all of its weights.
    embeds
        What ``get_identity_embeds`` gives.
    which
        Which ControlNet of several is InstantID's.

    Raises
    ------
    TypeError, ValueError
        Without such a ControlNet, or where it takes tokens of another size.

    Examples
    --------
    >>> embeds = get_identity_embeds(adapter, face, noise=0.35)
    >>> patched = patch_model(pipeline, [Identity(adapter, embeds), ImagePrompt(style, look)])
    >>> picture = identity_control(patched, embeds)("a portrait", image=keypoints).images[0]
    """
    from attnpatch.hosts.diffusers.attach import copy_pipeline, share_weights

    if not isinstance(embeds, ImageEmbeds):
        raise TypeError(f"embeds: expected ImageEmbeds, got {type(embeds).__name__}")
    networks = _networks(unwrapped(pipeline))
    if not networks:
        raise TypeError(
            f"pipeline: expected a pipeline with a ControlNet, got {type(pipeline).__name__}"
        )
    if not -len(networks) <= which < len(networks):
        raise ValueError(f"which: the pipeline has {len(networks)} ControlNets, got {which}")
    takes = getattr(networks[which].config, "cross_attention_dim", embeds.context_dim)
    if takes != embeds.context_dim:
        raise ValueError(
            f"embeds: expected tokens of {takes} values, as the ControlNet takes them, "
            f"got {embeds.context_dim}"
        )
    twin = copy_pipeline(pipeline)
    twin.controlnet = share_weights(pipeline.controlnet)
    network = _networks(twin)[which]
    _remove(network)
    _Hook(embeds).attach(network, twin)
    return twin


def has_identity(pipeline: Any) -> bool:
    """Whether a ControlNet of the pipeline is shown a face."""
    return any(_ATTRIBUTE in network.__dict__ for network in _networks(pipeline))


def follow(pipeline: Any) -> None:
    """Tell a ControlNet that is shown a face which pipeline it runs in."""
    for network in _networks(pipeline):
        hook = network.__dict__.get(_ATTRIBUTE)
        if hook is not None:
            hook.pipeline = weakref.ref(pipeline)


def _networks(pipeline: Any) -> list[Any]:
    controlnet = getattr(pipeline, "controlnet", None)
    if controlnet is None or not hasattr(controlnet, "register_forward_pre_hook"):
        return []
    return list(getattr(controlnet, "nets", [controlnet]))


def _remove(network: Any) -> None:
    hook = network.__dict__.pop(_ATTRIBUTE, None)
    for key, found in list(network._forward_pre_hooks.items()):
        if hook is not None and isinstance(found, _Hook):
            del network._forward_pre_hooks[key]
            network._forward_pre_hooks_with_kwargs.pop(key, None)


class _Hook:
    """Puts the face's tokens in the place of the text's."""

    def __init__(self, embeds: ImageEmbeds) -> None:
        self.embeds = embeds
        self.pipeline: Any = None

    def attach(self, network: Any, pipeline: Any) -> None:
        self.pipeline = weakref.ref(pipeline)
        network.register_forward_pre_hook(self, with_kwargs=True)
        network.__dict__[_ATTRIBUTE] = self

    def __call__(
        self, network: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        sample = args[0] if args else kwargs["sample"]
        tokens = self.tokens(_rows(kwargs, sample)).to(sample.device, sample.dtype)
        if len(args) > 2:
            return (*args[:2], tokens, *args[3:]), dict(kwargs)
        return args, {**kwargs, "encoder_hidden_states": tokens}

    def tokens(self, rows: Rows) -> Tensor:
        latents = max(rows.slots) + 1
        found = []
        for kind, slot in zip(rows.kinds, rows.slots, strict=True):
            part = self.embeds.cond if kind == COND else self.embeds.uncond
            if latents % len(part):
                raise ValueError(
                    f"embeds: expected as many pictures as the ControlNet is shown, {latents}, "
                    f"got {len(part)}"
                )
            # Pipelines put the pictures of one prompt next to each other.
            found.append(part[slot // (latents // len(part))])
        return torch.stack(found)

    def __deepcopy__(self, memo: object) -> _Hook:
        twin = _Hook(self.embeds)
        twin.pipeline = self.pipeline
        return twin


def _rows(kwargs: Mapping[str, Any], sample: Tensor) -> Rows:
    if kwargs.get("guess_mode"):  # the ControlNet sees the cond rows alone
        return Rows.of_chunks((COND,), len(sample))
    rows = rows_of(running_pipeline(), HostCall(sample, options=kwargs))
    if rows is None:
        raise ValueError(
            f"identity_control: expected a pipeline that tells which of the {len(sample)} rows of "
            "its ControlNet are cond and which uncond, got another one or none"
        )
    return rows
