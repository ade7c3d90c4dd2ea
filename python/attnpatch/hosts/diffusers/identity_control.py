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
from attnpatch.hosts.diffusers.guidance import chunks_of
from attnpatch.hosts.recognition import unwrapped

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
        # In guess mode the ControlNet sees the cond rows alone.
        guess = bool(kwargs.get("guess_mode"))
        chunks = (0,) if guess else chunks_of(self.pipeline(), len(sample)) or (0,)
        tokens = self.tokens(chunks, len(sample)).to(sample.device, sample.dtype)
        if len(args) > 2:
            return (*args[:2], tokens, *args[3:]), dict(kwargs)
        return args, {**kwargs, "encoder_hidden_states": tokens}

    def tokens(self, chunks: tuple[int, ...], rows: int) -> Tensor:
        each = rows // len(chunks)
        parts = []
        for kind in chunks:
            part = self.embeds.cond if kind == 0 else self.embeds.uncond
            if each % len(part):
                raise ValueError(
                    f"embeds: made for {len(part)} pictures, the ControlNet is shown {each}"
                )
            # Pipelines put the pictures of one prompt next to each other.
            parts.append(part.repeat_interleave(each // len(part), dim=0))
        return torch.cat(parts)

    def __deepcopy__(self, memo: object) -> _Hook:
        twin = _Hook(self.embeds)
        twin.pipeline = self.pipeline
        return twin
