# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Telling hosts' models apart by what they look like, without importing any host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_UNET_NAMES = ("down_blocks", "mid_block", "up_blocks", "set_attn_processor")
# How torch.compile names what it wraps; DataParallel, DistributedDataParallel, FSDP and others.
_WRAPPED_NAMES = ("_orig_mod", "module")


def diffusers_unet(model: Any) -> Any:
    """Return the UNet of a diffusers pipeline, or the UNet that `model` is; else None.

    Either may be in wrappers: compiled, in data parallel, sharded.
    """
    for candidate in (unwrapped(model), unwrapped(getattr(model, "unet", None))):
        if is_unet(candidate):
            return candidate
    return None


def unwrapped(module: Any) -> Any:
    """Return what is inside of all wrappers of a module, or `module` itself."""
    *_, inside = wrapping(module)
    return inside


def wrapping(module: Any) -> Iterator[Any]:
    """Yield a module, what it wraps, what that wraps, down to what is no wrapper."""
    seen: set[int] = set()
    while id(module) not in seen:
        seen.add(id(module))
        yield module
        inside = (getattr(module, name, None) for name in _WRAPPED_NAMES)
        module = next((one for one in inside if one is not None), module)


def is_kind_of(module: Any, *names: str) -> bool:
    """Whether the type of `module`, or one that it derives from, has one of these names."""
    return any(kind.__name__ in names for kind in type(module).__mro__)


def described(model: Any) -> str:
    """Name the type of a model, and of its `unet` where it has one, for an error."""
    name = f"{type(model).__module__}.{type(model).__qualname__}"
    if not hasattr(model, "unet"):
        return name
    unet = unwrapped(model.unet)
    return f"{name}, whose unet is " + ("None" if unet is None else f"a {type(unet).__qualname__}")


def is_unet(module: Any) -> bool:
    """Whether a module, which is in no wrapper, is a UNet as diffusers builds them."""
    return all(hasattr(module, name) for name in _UNET_NAMES)
