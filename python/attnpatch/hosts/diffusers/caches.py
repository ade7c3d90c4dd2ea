# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Packages that keep features of a UNet from step to step, beside degraded passes.

What a degraded pass leaves in such a cache must never reach an ordinary step.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

__all__ = ["check_caches", "deepcache_of", "own_cache"]

_DEEPCACHE = "DeepCacheSDHelper"
# Hooks of diffusers that keep what a module gave from call to call.
_KEEPING = (
    "pyramid_attention_broadcast",
    "faster_cache",
    "fbc_",
    "mag_cache",
    "taylorseer",
    "sea_",
)


def deepcache_of(unet: Any) -> Any:
    """Return the helper of the package DeepCache that is enabled for a UNet; None: none is."""
    forward = unet.__dict__.get("forward")
    for cell in getattr(forward, "__closure__", None) or ():
        helper = cell.cell_contents
        if type(helper).__name__ == _DEEPCACHE:
            return helper
    return None


def check_caches(unet: Any) -> None:
    """Raise where degraded passes would spoil what hooks of diffusers keep.

    Raises
    ------
    ValueError
        Naming the hook.
    """
    for module in unet.modules():
        for hook in getattr(module.__dict__.get("_diffusers_hook"), "hooks", ()):
            if hook.startswith(_KEEPING):
                raise ValueError(
                    "guidance: expected a UNet without caches that its degraded passes would "
                    f"spoil, got the hook {hook!r} at a {type(module).__name__}; disable it or "
                    "detach the guidance"
                )


@contextmanager
def own_cache(unet: Any, store: MutableMapping[Any, Any], key: Hashable) -> Iterator[None]:
    """Let a degraded pass have a cache of its own, kept in `store` from step to step.

    Where there is none yet, the pass runs whole.
    """
    helper = deepcache_of(unet)
    if helper is None:
        yield
        return
    before, start = helper.cached_output, helper.start_timestep
    own = store.get(key)
    helper.cached_output = {} if own is None else own
    if own is None:
        helper.start_timestep = None  # as if sampling began with this step
    try:
        yield
        store[key] = helper.cached_output
    finally:
        helper.cached_output, helper.start_timestep = before, start
