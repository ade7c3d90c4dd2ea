# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Copy pipelines: other modules, schedulers and hooks, the very same weights."""

from __future__ import annotations

import copy
from typing import Any

from attnpatch.hosts.diffusers.identity_hook import has_identity
from attnpatch.hosts.diffusers.patched_model import PatchedModel
from attnpatch.hosts.diffusers.sharing import share_weights

__all__ = ["copy_controlnet", "copy_pipeline"]


def copy_pipeline(model: Any) -> Any:
    """Copy a pipeline, patched or not: both share all weights, and can run at the same time.

    Where hooks move or cast weights in each call (offloading, layerwise casting), they run by
    turns. Wrappers of the denoiser (torch.compile) are left out.
    """
    pipeline = copy.copy(model)
    # Hooks that know the pipeline know the copy.
    name = "unet" if getattr(model, "unet", None) is not None else "transformer"
    setattr(pipeline, name, share_weights(getattr(model, name), {id(model): pipeline}))
    if getattr(model, "scheduler", None) is not None:
        # Schedulers count steps: each pipeline needs its own.
        pipeline.scheduler = copy.deepcopy(model.scheduler)
    patched = PatchedModel.of(getattr(pipeline, name))
    if patched is not None:
        patched.follow(pipeline)
    if has_identity(model):
        copy_controlnet(model, pipeline)
    return pipeline


def copy_controlnet(model: Any, twin: Any) -> None:
    """Give `twin`, a copy of the pipeline `model`, a ControlNet of its own that shares weights."""
    twin.controlnet = share_weights(model.controlnet, {id(model): twin})
