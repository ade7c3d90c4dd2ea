# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A picture blurred under a mask: padded once, then two convolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_NO_BLUR = 0.025
"""Up to this sigma all taps but the middle one are 0, in float64 too."""


def takes_kernel(x0: Tensor, kernel_size: int) -> bool:
    """Whether reflecting once at each border is enough for :func:`blur_and_blend`."""
    return min(x0.shape[2:]) > kernel_size // 2


def blur_and_blend(
    x0: Tensor, saliency: Tensor, sigma: float, threshold: float = 1.0, kernel_size: int = 9
) -> Tensor:
    """Compute :func:`attnpatch.ops.blur_and_blend`; :func:`takes_kernel` must hold."""
    if x0.numel() == 0 or sigma <= _NO_BLUR or kernel_size == 1:
        return x0.clone(memory_format=torch.contiguous_format)
    radius = kernel_size // 2
    x = x0.to(torch.promote_types(x0.dtype, torch.float32))
    padded = F.pad(x, (radius,) * 4, mode="reflect").flatten(0, 1)[None]
    planes = padded.shape[1]
    if planes == 1:
        # A convolution of one group may round its inputs on tensor cores; several do not.
        padded = padded.expand(-1, 2, -1, -1)
    # Made on the device: copying numbers there would wait for it.
    places = torch.linspace(
        -radius / sigma, radius / sigma, kernel_size, device=x.device, dtype=x.dtype
    )
    taps = places.square_().mul_(-0.5).softmax(dim=0)
    groups = padded.shape[1]
    for kernel in (taps[:, None], taps[None]):
        padded = F.conv2d(padded, kernel.expand(groups, 1, -1, -1), groups=groups)
    blurred = padded[0, :planes].unflatten(0, x0.shape[:2]).to(x0.dtype)
    salient = F.interpolate(saliency[:, None], size=x0.shape[2:], mode="nearest") > threshold
    return torch.where(salient, blurred, x0).contiguous()
