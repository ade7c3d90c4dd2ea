# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Telling hosts' models apart by what they look like, without importing any host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

TRANSFORMERS = (
    "ChromaTransformer2DModel",
    "Flux2Transformer2DModel",
    "FluxTransformer2DModel",
    "Krea2Transformer2DModel",
    "QwenImageTransformer2DModel",
    "SD3Transformer2DModel",
    "ZImageTransformer2DModel",
)
"""The transformers of diffusers that take patches."""
DENOISERS = ("unet", "transformer")
"""The names under which pipelines hold what takes patches."""
_UNET_NAMES = ("down_blocks", "mid_block", "up_blocks", "set_attn_processor")
# How torch.compile names what it wraps; DataParallel, DistributedDataParallel, FSDP and others.
_WRAPPED_NAMES = ("_orig_mod", "module")


def diffusers_denoiser(model: Any) -> Any:
    """Return the UNet or transformer of a diffusers pipeline, or that `model` is; else None.

    It may be in wrappers: compiled, in data parallel, sharded.
    """
    for module in (model, *(getattr(model, name, None) for name in DENOISERS)):
        candidate = unwrapped(module)
        if is_unet(candidate) or is_transformer(candidate):
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
        module = next((wrapped for wrapped in inside if wrapped is not None), module)


def is_kind_of(module: Any, *names: str) -> bool:
    """Whether the type of `module`, or one that it derives from, has one of these names."""
    return any(base.__name__ in names for base in type(module).__mro__)


def described(model: Any) -> str:
    """Name the type of a model, and of its denoiser where it has one, for an error."""
    name = f"{type(model).__module__}.{type(model).__qualname__}"
    for held in DENOISERS:
        if hasattr(model, held):
            module = unwrapped(getattr(model, held))
            held_type = "None" if module is None else f"a {type(module).__qualname__}"
            return f"{name}, whose {held} is {held_type}"
    return name


def is_unet(module: Any) -> bool:
    """Whether a module, which is in no wrapper, is a UNet as diffusers builds them."""
    return all(hasattr(module, name) for name in _UNET_NAMES)


def is_transformer(module: Any) -> bool:
    """Whether a module, which is in no wrapper, is a transformer of diffusers that is known."""
    return is_kind_of(module, *TRANSFORMERS) and hasattr(module, "parameters")
