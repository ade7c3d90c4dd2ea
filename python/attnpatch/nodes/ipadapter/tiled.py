# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Apply nodes that cut a wide or large reference into tiles, one image prompt each."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from attnpatch.nodes import comfy
from attnpatch.nodes import inputs as common
from attnpatch.nodes.ipadapter.applying import patch
from attnpatch.nodes.ipadapter.image_prompts import make_picture_prompts, unpack_values
from attnpatch.nodes.pictures import middle, resize, resize_by_pillow, sharpen
from attnpatch.nodes.spec import Input, NodeSpec, Output

__all__ = ["NODES", "cut_tiles"]

_TILE = 256  # pixels; encoders make 224 of it
_MOST = 4  # tiles beside each other
_NEARLY_SQUARE = (0.75, 1.33)  # height / width


def cut_tiles(image: Tensor, mask: Tensor | None, sharpening: float) -> tuple[Tensor, Tensor]:
    """Cut pictures into tiles, each with a mask of where it lies.

    A nearly square picture is cropped to a square and gives 2×2 tiles; a longer one gives a row of
    up to four, cropped where it is longer than that.

    Parameters
    ----------
    image
        (pictures, H, W, 3), 0 to 1.
    mask
        (masks, h, w) over the whole picture; None: all of it.
    sharpening
        0 to 1.

    Returns
    -------
    tiles, masks
        (tiles, pictures, 256, 256, 3) and (tiles, masks, height, width) of the cropped picture.
    """
    height, width = image.shape[1:3]
    picture = image[..., :3].movedim(-1, 1)
    kept = (
        torch.ones(1, 1, height, width) if mask is None else mask.reshape(-1, 1, *mask.shape[-2:])
    )
    kept = resize(kept.to(picture), (height, width))
    size = _size_in_tiles(height, width)
    if size == (2 * _TILE, 2 * _TILE):
        side = min(height, width)
        picture, kept = middle(picture, side, side), middle(kept, side, side)
    picture = resize_by_pillow(picture.movedim(1, -1), size, "LANCZOS").movedim(-1, 1)
    kept = resize(kept.cpu(), size).clamp(0, 1)
    rows, columns = (min(side, _MOST * _TILE) for side in size)
    picture, kept = middle(picture, rows, columns), middle(kept, rows, columns)[:, 0]
    pixels = picture.movedim(1, -1)
    if sharpening > 0:
        pixels = sharpen(pixels, sharpening)
    tiles, masks = [], []
    for top in _starts(rows):
        for left in _starts(columns):
            window = (slice(None), slice(top, top + _TILE), slice(left, left + _TILE))
            tiles.append(pixels[window])
            part = torch.zeros_like(kept)
            part[window] = kept[window]
            masks.append(part)
    return torch.stack(tiles), torch.stack(masks)


def _size_in_tiles(height: int, width: int) -> tuple[int, int]:
    """Give the size at which a picture is cut."""
    low, high = _NEARLY_SQUARE
    if low < height / width < high:
        return 2 * _TILE, 2 * _TILE
    if height < width:
        return _TILE, int(_TILE * width / height)
    return int(_TILE * height / width), _TILE


def _starts(side: int) -> list[int]:
    """Give where tiles begin that cover a side, overlapping evenly."""
    count = math.ceil(side / _TILE)
    overlap = (count * _TILE - side) / max(count - 1, 1)
    return [int(number * (_TILE - overlap)) for number in range(count)]


def _apply_tiled(
    *, image: Tensor, attn_mask: Tensor | None, sharpening: float, **values: Any
) -> tuple[Any, Tensor, Tensor]:
    loaded = unpack_values(values)
    tiles, masks = cut_tiles(image, attn_mask, sharpening)
    prompts = []
    for tile, mask in comfy.steps(list(zip(tiles, masks, strict=True)), len(tiles)):
        prompts += make_picture_prompts(loaded, tile, {**values, "attn_mask": mask})[0]
    return patch(values["model"], prompts), tiles.flatten(0, 1), masks.flatten(0, 1)


def _inputs(batch: bool) -> tuple[Input, ...]:
    return (
        common.MODEL,
        common.IPADAPTER,
        common.image(what=common.FOR_EACH) if batch else common.image(),
        common.weight(maximum=3),
        common.WEIGHT_TYPE,
        *(() if batch else (common.combine(),)),
        common.START_AT,
        common.END_AT,
        Input(
            id="sharpening",
            type="FLOAT",
            default=0.0,
            minimum=0.0,
            maximum=1.0,
            step=0.05,
            tooltip="Sharpens the tiles; 0: not.",
        ),
        common.EMBEDS_SCALING,
        *((common.ENCODE_BATCH_SIZE,) if batch else ()),
        common.IMAGE_NEGATIVE,
        common.ATTN_MASK,
        common.CLIP_VISION,
        common.REFERENCE_QUIRKS,
    )


_OUTPUTS = (
    common.MODEL_OUT,
    Output("IMAGE", "tiles", "The tiles, row by row."),
    Output("MASK", "masks", "Where each tile counts."),
)
_CATEGORY = "ipadapter/tiled"

NODES = (
    NodeSpec(
        id="IPAdapterTiled",
        title="IPAdapter Tiled",
        category=_CATEGORY,
        description="Adds a picture to the prompt tile by tile: for pictures that are not square.",
        inputs=_inputs(batch=False),
        outputs=_OUTPUTS,
        run=_apply_tiled,
    ),
    NodeSpec(
        id="IPAdapterTiledBatch",
        title="IPAdapter Tiled Batch",
        category=_CATEGORY,
        description="Adds pictures tile by tile, one for each picture of the batch.",
        inputs=_inputs(batch=True),
        outputs=_OUTPUTS,
        run=partial(_apply_tiled, unfold=True),
    ),
)
