# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The hook by which a ControlNet attends to a face's tokens in the place of the text's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from attnpatch.adapters import ImageEmbeds
from attnpatch.engine import COND
from attnpatch.hosts.diffusers.rows import rows_of
from attnpatch.hosts.diffusers.running import running_pipeline
from attnpatch.hosts.host_call import HostCall, Rows
from attnpatch.hosts.recognition import unwrapped

__all__ = ["IdentityHook", "has_identity", "networks_of", "remove"]

_ATTRIBUTE = "_attnpatch_identity"


def has_identity(pipeline: Any) -> bool:
    """Whether a ControlNet of the pipeline is shown a face."""
    return any(_ATTRIBUTE in network.__dict__ for network in networks_of(pipeline))


def networks_of(pipeline: Any) -> list[Any]:
    """Return the ControlNets of a pipeline; out of wrappers, where those of torch.compile are."""
    controlnet = unwrapped(getattr(pipeline, "controlnet", None))
    if controlnet is None or not hasattr(controlnet, "register_forward_pre_hook"):
        return []
    return [unwrapped(network) for network in getattr(controlnet, "nets", [controlnet])]


def remove(network: Any) -> None:
    """Let a ControlNet attend to the text again."""
    hook = network.__dict__.pop(_ATTRIBUTE, None)
    for key, registered in list(network._forward_pre_hooks.items()):
        if hook is not None and isinstance(registered, IdentityHook):
            del network._forward_pre_hooks[key]
            network._forward_pre_hooks_with_kwargs.pop(key, None)


class IdentityHook:
    """Puts the face's tokens in the place of the text's."""

    def __init__(self, embeds: ImageEmbeds) -> None:
        self.embeds = embeds

    def attach(self, network: Any) -> None:
        """Show the face to a ControlNet."""
        network.register_forward_pre_hook(self, with_kwargs=True)
        network.__dict__[_ATTRIBUTE] = self

    def __call__(
        self, network: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Replace the text's tokens in a call of the ControlNet: its forward pre-hook."""
        sample = args[0] if args else kwargs["sample"]
        tokens = self.tokens(_rows(kwargs, sample)).to(sample.device, sample.dtype)
        if len(args) > 2:
            return (*args[:2], tokens, *args[3:]), dict(kwargs)
        return args, {**kwargs, "encoder_hidden_states": tokens}

    def tokens(self, rows: Rows) -> Tensor:
        """Return the face's tokens for each row of a batch."""
        latents = max(rows.slots) + 1
        by_row = []
        for role, slot in zip(rows.roles, rows.slots, strict=True):
            part = self.embeds.cond if role == COND else self.embeds.uncond
            if latents % len(part):
                raise ValueError(
                    f"embeds: expected as many pictures as the ControlNet is shown, {latents}, "
                    f"got {len(part)}"
                )
            # Pipelines put the pictures of one prompt next to each other.
            by_row.append(part[slot // (latents // len(part))])
        return torch.stack(by_row)

    def __deepcopy__(self, memo: object) -> IdentityHook:
        return IdentityHook(self.embeds)


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
