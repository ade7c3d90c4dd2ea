# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A small cache for values that several threads may ask for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any

import torch

__all__ = ["Cache", "upload", "where"]


class Cache:
    """Keeps the latest ``size`` values. Finding one takes no lock; making one does."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: dict[Hashable, Any] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Give the value of ``key``, made by ``make`` where it is not there."""
        value = self._values.get(key, self)
        if value is not self:
            return value
        with self._lock:
            value = self._values.get(key, self)
            if value is self:
                # Tensors that live on must not be inference tensors, nor part of a graph.
                with torch.inference_mode(False), torch.no_grad():
                    value = make()
                self._values[key] = value
                while len(self._values) > self._size:
                    del self._values[next(iter(self._values))]
        return value


def where(device: torch.device) -> Hashable:
    """Give a key for values made on a device: on CUDA they are safe on the current stream only."""
    if device.type != "cuda":
        return device
    return device, torch.cuda.current_stream(device).cuda_stream


def upload(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Bring a small CPU tensor to a device without waiting for it."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
