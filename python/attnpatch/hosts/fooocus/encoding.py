# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""From a picture to the keys and values of every site, with the host's image encoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attnpatch.hosts.fooocus.networks import IPAdapterModel
from attnpatch.pictures import Picture, read_picture

_SIDE = 224
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


def to_pixels(img: Picture) -> Tensor:
    """Turn a picture, RGB (H, W, 3) as `read_picture` takes it, into (1, H, W, 3) in [0, 1]."""
    return torch.tensor(read_picture(img, "img"), dtype=torch.float32)[None] / 255


@torch.no_grad()
def clip_preprocess(image: Tensor) -> Tensor:
    """Normalise pictures for CLIP.

    Parameters
    ----------
    image
        (B, 224, 224, 3) in [0, 1].

    Returns
    -------
    Tensor
        (B, 3, 224, 224) in the dtype of `image`, each channel (x - mean) / std.

    Raises
    ------
    ValueError
        For any other size: the host resizes pictures itself.
    """
    if image.ndim != 4 or image.shape[1:] != (_SIDE, _SIDE, 3):
        raise ValueError(
            f"image: expected (B, {_SIDE}, {_SIDE}, 3), got {tuple(image.shape)}; "
            f"resize pictures to {_SIDE} × {_SIDE} first"
        )
    mean, std = (image.new_tensor(values) for values in (_MEAN, _STD))
    return ((image - mean) / std).movedim(-1, 1)


def compute_placement() -> dict[str, Any]:
    """Return the device and dtype that the host wants adapters to compute in."""
    from ldm_patched.modules import model_management

    device = model_management.get_torch_device()
    half = model_management.should_use_fp16(device=device)
    return {"device": device, "dtype": torch.float16 if half else torch.float32}


@torch.no_grad()
def encode(clip_vision: Any, pixels: Tensor, *, hidden: bool) -> Tensor:
    """Run the host's image encoder.

    Parameters
    ----------
    clip_vision
        The host's ``ClipVisionModel``.
    pixels
        (B, 3, 224, 224), as :func:`clip_preprocess` gives them.
    hidden
        Whether to give the second-to-last hidden states (B, L, D) or the embedding (B, D).
    """
    from ldm_patched.modules.model_management import load_model_gpu

    load_model_gpu(clip_vision.patcher)
    outputs = clip_vision.model(
        pixel_values=pixels.to(clip_vision.load_device), output_hidden_states=True
    )
    return outputs.hidden_states[-2] if hidden else outputs.image_embeds


@torch.no_grad()
def image_tokens(adapter: IPAdapterModel, features: Tensor) -> Tensor:
    """Project the encoder's features to image tokens (B, T, context).

    Raises
    ------
    ValueError
        If they come from another encoder than the adapter was made for.
    """
    if features.shape[-1] != adapter.embed_dim:
        raise ValueError(
            f"clip_vision: its features have {features.shape[-1]} values, but the adapter takes "
            f"{adapter.embed_dim}; load the image encoder that belongs to it"
        )
    return adapter.image_proj_model(features)


@torch.no_grad()
def keys_and_values(adapter: IPAdapterModel, tokens: Tensor) -> list[Tensor]:
    """Project image tokens (B, T, context) to k and v of each site, (B, T, channels), on CPU."""
    projected = [layer(tokens) for layer in adapter.ip_layers.to_kvs]
    if tokens.device.type == "cpu":
        return projected
    everything = torch.cat([x.flatten() for x in projected]).cpu()  # one transfer
    parts = everything.split([x.numel() for x in projected])
    return [part.view(x.shape) for part, x in zip(parts, projected, strict=True)]
