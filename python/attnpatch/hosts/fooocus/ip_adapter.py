# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Stands in for Fooocus' ``extras/ip_adapter.py``, which then is this one line.

::

    from attnpatch.hosts.fooocus.ip_adapter import *

The image prompt that shares the text's softmax is the
host's. Its author remarks that it may carry intellectual-property issues in commercial use; the
decoupled form, `attnpatch.ImagePrompt`, is the default everywhere else.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, TypeGuard

import torch
from safetensors.torch import load_file
from torch import Tensor

from attnpatch.adapters.files import read_file
from attnpatch.adapters.inputs import is_finite
from attnpatch.hosts.fooocus.encoding import (
    clip_preprocess,
    compute_placement,
    encode,
    image_tokens,
    keys_and_values,
    to_pixels,
)
from attnpatch.hosts.fooocus.host import sdp
from attnpatch.hosts.fooocus.networks import (
    SD_V12_CHANNELS,
    SD_XL_CHANNELS,
    ImageProjModel,
    IPAdapterModel,
    To_KV,
)
from attnpatch.hosts.fooocus.tasks import patch_model

# `__getattr__` lets a module that imports all names read the two that loading sets later.
__all__ = [
    "SD_V12_CHANNELS",
    "SD_XL_CHANNELS",
    "IPAdapterModel",
    "ImageProjModel",
    "To_KV",
    "__getattr__",
    "clip_preprocess",
    "ip_adapters",
    "load_ip_adapter",
    "patch_model",
    "preprocess",
    "sdp",
]

clip_vision: Any = None
ip_negative: Tensor | None = None
ip_adapters: dict[str, dict[str, Any]] = {}

_SET_BY_LOADING = ("clip_vision", "ip_negative")
_log = logging.getLogger(__name__)


def __getattr__(name: str) -> Any:
    if name in _SET_BY_LOADING:
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_ip_adapter(
    clip_vision_path: str | None, ip_negative_path: str | None, ip_adapter_path: str | None
) -> None:
    """Load the image encoder, the negative image tokens and an adapter, each once.

    Parameters
    ----------
    clip_vision_path
        A CLIP vision checkpoint, read by the host. Ignored once one is loaded.
    ip_negative_path
        A safetensors file with image tokens ``data`` (1, T, context). Ignored once one is loaded.
    ip_adapter_path
        An adapter, ``.bin``, ``.pt`` or ``.safetensors``; a path that is loaded is not read again.

    Anything that is not a path is left out.
    """
    global clip_vision, ip_negative
    if clip_vision is None and _is_path(clip_vision_path):
        from ldm_patched.modules.clip_vision import load

        clip_vision = load(clip_vision_path)
    if ip_negative is None and _is_path(ip_negative_path):
        ip_negative = _read_negative(ip_negative_path)
    if _is_path(ip_adapter_path) and ip_adapter_path not in ip_adapters:
        adapter = _read_adapter(Path(ip_adapter_path))
        ip_adapters[ip_adapter_path] = {"ip_adapter": adapter, "ip_unconds": None}


def preprocess(img: Any, ip_adapter_path: str) -> tuple[list[Tensor], list[Tensor]]:
    """Turn a picture into keys and values of every site.

    Parameters
    ----------
    img
        uint8 array (224, 224, 3).
    ip_adapter_path
        A path that was given to :func:`load_ip_adapter`.

    Returns
    -------
    tuple of two lists
        For the picture and for its negative: k and v of site 0, k and v of site 1, …, each
        (1, tokens, channels), on the CPU, in the adapter's compute dtype.

    Raises
    ------
    KeyError
        If the adapter is not loaded.
    ValueError
        If no image encoder is loaded, or the picture's size is not 224 × 224.
    """
    if ip_adapter_path not in ip_adapters:
        raise KeyError(f"ip_adapter_path: {ip_adapter_path!r} is not loaded")
    if clip_vision is None:
        raise ValueError("clip_vision: none is loaded; load_ip_adapter() takes its path")
    entry = ip_adapters[ip_adapter_path]
    adapter = entry["ip_adapter"]
    pixels = clip_preprocess(to_pixels(img))
    conds = _project(adapter, pixels)
    if entry["ip_unconds"] is None:
        entry["ip_unconds"] = _project_negative(adapter, pixels)
    return conds, entry["ip_unconds"]


def _project(adapter: IPAdapterModel, pixels: Tensor) -> list[Tensor]:
    placement = compute_placement()
    features = encode(clip_vision, pixels, hidden=adapter.plus).to(**placement)
    return keys_and_values(adapter, image_tokens(adapter, features))


def _project_negative(adapter: IPAdapterModel, pixels: Tensor) -> list[Tensor]:
    """Project what stands for no picture: the host's own tokens, else an empty picture's."""
    if ip_negative is not None and ip_negative.shape[2] == adapter.context_dim:
        return keys_and_values(adapter, ip_negative.to(**compute_placement()))
    if ip_negative is not None:
        _log.warning(
            "ip_negative of shape %s does not fit an adapter of image tokens of %d values; "
            "those of an empty picture take its place",
            tuple(ip_negative.shape),
            adapter.context_dim,
        )
    if adapter.plus:
        return _project(adapter, torch.zeros_like(pixels))
    nothing = torch.zeros(1, adapter.embed_dim, **compute_placement())
    return keys_and_values(adapter, image_tokens(adapter, nothing))


def _read_adapter(path: Path) -> IPAdapterModel:
    content: Any = read_file(path)
    try:
        return IPAdapterModel(content, None, None, None, None)
    except ValueError as error:
        raise type(error)(f"{path.name}: {error}") from None


def _read_negative(path: str) -> Tensor:
    tensors = load_file(path)
    if "data" not in tensors or tensors["data"].ndim != 3:
        held = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        raise ValueError(f"ip_negative_path: expected a tensor data (1, T, context), found {held}")
    if not is_finite(tensors["data"]):
        raise ValueError(
            f"ip_negative_path: expected finite values in {Path(path).name}, got NaN or infinity "
            "in data"
        )
    return tensors["data"]


def _is_path(path: object) -> TypeGuard[str]:
    return isinstance(path, (str, os.PathLike))
