# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""InstantID's ControlNet in a plain pipeline: it attends to the face's tokens, not to the text."""

from __future__ import annotations

from typing import Any

from attnpatch.adapters import ImageEmbeds
from attnpatch.hosts.diffusers.copying import copy_controlnet, copy_pipeline
from attnpatch.hosts.diffusers.identity_hook import IdentityHook, networks_of, remove

__all__ = ["identity_control"]


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
    if not isinstance(embeds, ImageEmbeds):
        raise TypeError(f"embeds: expected ImageEmbeds, got {type(embeds).__name__}")
    networks = networks_of(pipeline)
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
    copy_controlnet(pipeline, twin)
    network = networks_of(twin)[which]
    remove(network)
    IdentityHook(embeds).attach(network)
    return twin
