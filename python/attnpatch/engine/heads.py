# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Channels as heads and back."""

from __future__ import annotations

from torch import Tensor

__all__ = ["join_heads", "split_heads"]

# One view costs half of what two do. Through as_strided gradients would be slow.


def split_heads(tensor: Tensor, heads: int) -> Tensor:
    """View (batch, tokens, channels) as (batch, heads, tokens, head size).

    Raises
    ------
    ValueError
        If `heads` does not divide the channels.
    """
    rows, tokens, channels = tensor.shape
    size, rest = divmod(channels, heads)
    if rest:
        raise ValueError(f"heads: {heads} do not divide {channels} channels")
    if tensor.requires_grad or not tensor.is_contiguous():
        return tensor.unflatten(2, (heads, size)).transpose(1, 2)
    return tensor.as_strided((rows, heads, tokens, size), (tokens * channels, size, channels, 1))


def join_heads(tensor: Tensor) -> Tensor:
    """Return (batch, heads, tokens, head size) as (batch, tokens, channels); if it can, a view."""
    rows, heads, tokens, size = tensor.shape
    channels = heads * size
    if tensor.requires_grad or tensor.stride() != (tokens * channels, size, channels, 1):
        return tensor.transpose(1, 2).flatten(2)
    return tensor.as_strided((rows, tokens, channels), (tokens * channels, channels, 1))
