# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Other denoisers that a pipeline holds beside the UNet that patches are attached to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from attnpatch.hosts.diffusers.patched_model import PatchedModel
from attnpatch.hosts.diffusers.running import is_pipeline
from attnpatch.hosts.recognition import is_transformer, is_unet, unwrapped

__all__ = ["unpatched_denoisers", "unpatched_unets"]

_DENOISER = re.compile(r"UNet|Transformer|Prior|DiT")


def unpatched_denoisers(pipeline: Any, unet: Any) -> tuple[str, ...]:
    """Say which other denoisers a pipeline holds that have no patches, by their names in it.

    Its own ("unet_2"), and those of pipelines that it holds ("refiner.unet").

    Parameters
    ----------
    pipeline
        A pipeline of diffusers; anything else holds none.
    unet
        The UNet that patches are attached to.
    """
    unpatched = {}
    for name, module in _denoisers(pipeline, "", set()):
        if module is not unet and PatchedModel.of(module) is None:
            unpatched.setdefault(id(module), f"{name} ({type(module).__name__})")
    return tuple(unpatched.values())


def unpatched_unets(pipeline: Any, unet: Any) -> tuple[str, ...]:
    """Say which other UNets without patches the pipeline itself has, so that its calls run them."""
    own = getattr(pipeline, "config", None) or {}
    return tuple(
        name
        for name, value in vars(pipeline).items()
        if name in own
        and (is_unet(module := unwrapped(value)) or is_transformer(module))
        and module is not unet
        and PatchedModel.of(module) is None
    )


def _denoisers(pipeline: Any, prefix: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    if not is_pipeline(pipeline) or id(pipeline) in seen:
        return
    seen.add(id(pipeline))
    for name, value in vars(pipeline).items():
        if is_pipeline(value):
            yield from _denoisers(value, f"{prefix}{name}.", seen)
        elif _is_denoiser(module := unwrapped(value)):
            yield f"{prefix}{name}", module


def _is_denoiser(module: Any) -> bool:
    if is_unet(module):
        return True
    cls = type(module)
    known = cls.__module__.startswith("diffusers.") and hasattr(module, "parameters")
    return known and "ControlNet" not in cls.__name__ and bool(_DENOISER.search(cls.__name__))
