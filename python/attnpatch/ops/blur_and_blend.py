# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A picture blurred where a coarse map is salient, and left as it is elsewhere."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from attnpatch.ops import plain
from attnpatch.ops.checks import checked
from attnpatch.ops.library import call, register


def blur_and_blend(
    x0: Tensor, saliency: Tensor, sigma: float, threshold: float = 1.0, kernel_size: int = 9
) -> Tensor:
    """Blur a latent or picture under the mask ``saliency > threshold``.

    A Gaussian with taps exp(-x² / 2σ²) at x = -kernel_size // 2 …, normalised, along both axes,
    with reflect padding that goes on bouncing where a side is shorter than the kernel. The mask is
    upsampled to the nearest neighbour, as ``torch.nn.functional.interpolate`` does it.

    Parameters
    ----------
    x0 : Tensor
        (batch, channels, height, width); float32, float16 or bfloat16, any strides.
    saliency : Tensor
        float32 (batch, rows, columns), on a grid of any size.
    sigma : float
        In pixels of x0. 0: no blur. Infinite: the mean over the kernel.
    threshold : float
        Where the saliency is above it, the result is blurred.
    kernel_size : int
        Odd.

    Returns
    -------
    Tensor
        Contiguous, in the shape and dtype of x0.

    Raises
    ------
    RuntimeError
        If shapes, dtypes, devices or numbers do not fit; the message names the argument.

    Notes
    -----
    The degraded prediction of self-attention guidance: Hong et al. 2023, arXiv 2210.00939,
    section 4.3.

    Examples
    --------
    Only the left half is blurred:

    >>> import torch
    >>> from attnpatch.ops import blur_and_blend
    >>> x0, saliency = torch.randn(1, 4, 8, 8), torch.tensor([[[2.0, 0.5]]])
    >>> blurred = blur_and_blend(x0, saliency, sigma=1.0)
    >>> (blurred != x0).any(3).all().item(), torch.equal(blurred[..., 4:], x0[..., 4:])
    (True, True)
    """
    return call(
        torch.ops.attnpatch.blur_and_blend.default,
        blur_and_blend_reference,
        *(x0, saliency, sigma, threshold, kernel_size),
    )


@checked("blur_and_blend", wide=True)
def blur_and_blend_reference(
    x0: Tensor, saliency: Tensor, sigma: float, threshold: float = 1.0, kernel_size: int = 9
) -> Tensor:
    """Compute :func:`blur_and_blend` readably, on any device, differentiably."""
    taps = _gaussian_taps(sigma, kernel_size)
    if x0.numel() == 0:
        return x0.clone(memory_format=torch.contiguous_format)
    blurred = x0.to(torch.promote_types(x0.dtype, torch.float32))
    for dim in (2, 3):
        blurred = _filter(blurred, taps, dim)
    mask = (saliency > threshold)[:, None].to(torch.float32)
    mask = F.interpolate(mask, size=x0.shape[2:], mode="nearest")
    return torch.where(mask > 0, blurred.to(x0.dtype), x0).contiguous()


def _gaussian_taps(sigma: float, kernel_size: int) -> list[float]:
    if sigma == 0:
        return [1.0]
    radius = kernel_size // 2
    # Dividing before squaring keeps the smallest sigmas: their square would be zero.
    taps = [math.exp(-0.5 * min(abs(x) / sigma, 1e3) ** 2) for x in range(-radius, radius + 1)]
    return [tap / sum(taps) for tap in taps]


def _filter(x: Tensor, taps: list[float], dim: int) -> Tensor:
    """Correlate x with the taps along one dimension, reflecting at the borders."""
    size = x.shape[dim]
    radius = len(taps) // 2
    period = max(2 * (size - 1), 1)
    index = torch.arange(-radius, size + radius, device=x.device) % period
    padded = x.index_select(dim, torch.minimum(index, period - index) if size > 1 else 0 * index)
    result = torch.zeros_like(x)
    for i, tap in enumerate(taps):
        result = result + tap * padded.narrow(dim, i, size)
    return result


def _fake(x0: Tensor, *_: object) -> Tensor:
    return x0.new_empty(x0.shape)


def _plain(
    x0: Tensor, saliency: Tensor, sigma: float, threshold: float = 1.0, kernel_size: int = 9
) -> Tensor:
    serves = plain.takes_kernel(x0, kernel_size)
    function = plain.blur_and_blend if serves else blur_and_blend_reference
    return function(x0, saliency, sigma, threshold, kernel_size)


register(
    "blur_and_blend",
    blur_and_blend_reference,
    _plain,
    _fake,
    beyond=lambda limits, x0, saliency, sigma, threshold, kernel_size: (
        kernel_size > limits.kernel_size or x0.shape[0] * x0.shape[1] > limits.grid
    ),
)
