# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Devices, and arguments between them."""

import torch

from attnpatch.ops import library


def kernel_devices():
    """Give the devices that have kernels of ours here: CUDA where it is asked for."""
    cuda = torch.cuda.is_available() and "cuda" in library._LIMITS
    return ["cpu", "cuda"] if cuda else ["cpu"]


def on(device, value):
    """The same arguments on a device."""
    if isinstance(value, (list, tuple)):
        return type(value)(on(device, item) for item in value)
    return value.to(device) if isinstance(value, torch.Tensor) else value


def exact(value):
    """On the CPU; numbers in float64."""
    if isinstance(value, list):
        return [exact(item) for item in value]
    if isinstance(value, torch.Tensor):
        return value.cpu().double() if value.is_floating_point() else value.cpu()
    return value
