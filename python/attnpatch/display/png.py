# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Pixels as a PNG within a page, without a package for pictures."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

__all__ = ["data_uri", "png", "shrink"]


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Write grey pixels (H, W) or colours (H, W, 3), uint8, as a PNG file."""
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels).reshape(height, -1)
    filtered = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1)  # 0: no filter
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if pixels.ndim == 2 else 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(filtered.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def data_uri(pixels: npt.NDArray[np.uint8]) -> str:
    """Give pixels as an address that holds them."""
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode("ascii")


def shrink(pixels: npt.NDArray[np.uint8], longest: int) -> npt.NDArray[np.uint8]:
    """Make pixels (H, W) or (H, W, C) smaller, each the mean of its area, if a side is longer."""
    height, width = pixels.shape[:2]
    if max(height, width) <= longest:
        return pixels
    scale = longest / max(height, width)
    wanted = max(1, round(height * scale)), max(1, round(width * scale))
    flat = torch.from_numpy(np.array(pixels)).reshape(height, width, -1).permute(2, 0, 1)
    small = F.interpolate(flat[None].float(), wanted, mode="area")[0].round().to(torch.uint8)
    return small.permute(1, 2, 0).reshape(*wanted, *pixels.shape[2:]).numpy()
