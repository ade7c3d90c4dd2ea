# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Packages that keep features of a UNet from step to step, beside degraded passes.

What a degraded pass leaves in such a cache must never reach an ordinary step.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from torch import nn

__all__ = ["check_caches", "check_row_caches", "deepcache_of", "own_cache"]

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
# Those that tell cond and uncond calls apart.
_TELLING = ("fbc_", "mag_cache", "taylorseer", "sea_")
_TEXT = "text_kv_cache"  # it knows a text by where it lies


def deepcache_of(unet: Any) -> Any:
    """Return the helper of the package DeepCache that is enabled for a UNet; None: none is."""
    forward = unet.__dict__.get("forward")
    for cell in getattr(forward, "__closure__", None) or ():
        helper = cell.cell_contents
        if type(helper).__name__ == _DEEPCACHE:
            return helper
    return None


def check_caches(unet: nn.Module) -> None:
    """Raise where degraded passes would spoil what hooks of diffusers keep.

    Raises
    ------
    ValueError
        Naming the hook.
    """
    for hook, module in _hooks(unet):
        if hook.startswith(_KEEPING):
            raise ValueError(
                "guidance: expected a UNet without caches that its degraded passes would "
                f"spoil, got the hook {hook!r} at a {module}; disable it or detach the guidance"
            )


def check_row_caches(model: nn.Module, always: bool) -> None:
    """Raise where hooks of diffusers keep rows that later calls have not, or lack.

    Parameters
    ----------
    model
        A transformer that is given rows of a negative text in this call.
    always
        Whether all cond calls of sampling have them.

    Raises
    ------
    ValueError
        Naming the hook.
    """
    for hook, module in _hooks(model):
        if hook.startswith((*_KEEPING, _TEXT)) and not (always and hook.startswith(_TELLING)):
            raise ValueError(
                "negative: expected a transformer without caches whose rows the rows of a "
                f"negative text would not fit, got the hook {hook!r} at a {module}; disable it, "
                "or detach the guidance; caches that tell cond and uncond apart serve where start "
                "is 0 and end is 1"
            )


def _hooks(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the name of each hook of diffusers, and of its module's class."""
    for module in model.modules():
        for hook in getattr(module.__dict__.get("_diffusers_hook"), "hooks", ()):
            yield hook, type(module).__name__


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
