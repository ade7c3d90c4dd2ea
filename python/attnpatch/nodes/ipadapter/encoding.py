# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""From pictures to an adapter's features, by the host's CLIP vision model and a face analyser."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attnpatch.adapters import ImageAdapter
from attnpatch.nodes import comfy
from attnpatch.nodes.pictures import middle_square, resize

__all__ = [
    "Reference",
    "blend_mask",
    "encode",
    "encode_black",
    "encode_reference",
    "hold",
    "middle_square",
]

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_black: weakref.WeakKeyDictionary[Any, dict[str, Tensor]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Reference:
    """Features of reference pictures, one tensor for each input of the adapter.

    Parameters
    ----------
    positive, negative
        (pictures, …) each; of negative 1 or as many as of positive.
    """

    positive: tuple[Tensor, ...]
    negative: tuple[Tensor, ...]

    @property
    def pictures(self) -> int:
        """How many pictures there are."""
        return max(len(part) for part in self.positive)

    def tensors(self) -> dict[str, Tensor]:
        """Give all features by name."""
        sides = (("positive", self.positive), ("negative", self.negative))
        return {f"{side}.{n}": part for side, parts in sides for n, part in enumerate(parts)}

    def features(self, side: str) -> Any:
        """Give "positive" or "negative" as an adapter takes it."""
        parts = getattr(self, side)
        return parts[0] if len(parts) == 1 else parts


def hold(tensor: Tensor, count: int) -> Tensor:
    """Give `count` rows: the first ones, or the last one repeated."""
    if len(tensor) >= count:
        return tensor[:count]
    return torch.cat([tensor, tensor[-1:].expand(count - len(tensor), *tensor.shape[1:])])


def encode(
    clip_vision: Any,
    image: Tensor,
    form: str,
    *,
    batch_size: int = 0,
    tiles: int = 1,
    ratio: float = 1.0,
) -> Tensor:
    """Encode pictures by the host's CLIP vision model.

    Parameters
    ----------
    clip_vision
        Has ``encode_image``.
    image
        (pictures, H, W, 3), 0 to 1.
    form
        "pooled" or "hidden": which of its outputs.
    batch_size
        How many at a time; 0: all.
    tiles, ratio
        Above 1 tile a side the tiles are encoded as well and pooled to the size of one picture. A
        single picture gives two rows then, itself times `ratio` and its tiles; several give
        `ratio` of themselves and 1 - `ratio` of their tiles.

    Returns
    -------
    Tensor
        (rows, size) or (rows, tokens, size).

    Raises
    ------
    ValueError
        Without a model, naming the input.
    """
    if clip_vision is None:
        raise ValueError(
            "clip_vision: this adapter needs the CLIP vision model; connect one, or use the "
            "Unified Loader, which brings its own"
        )
    image = image[..., :3]
    if tiles <= 1:
        parts = image.split(batch_size or len(image))
        outputs = [_output(clip_vision, part, form) for part in comfy.steps(parts, len(parts))]
        return torch.cat(outputs)
    whole = encode(clip_vision, image, form, batch_size=batch_size)
    cut = [_cut(picture, tiles) for picture in image]
    parts = [encode(clip_vision, part, form, batch_size=batch_size) for part in cut]
    pooled = torch.cat([_pool(part, tiles) for part in parts])
    if len(image) > 1:
        return whole * ratio + pooled * (1 - ratio)
    return torch.cat([whole * ratio, pooled])


def encode_black(clip_vision: Any, form: str) -> Tensor:
    """Encode a black picture, which stands for no picture; kept with the model."""
    known = _black.setdefault(clip_vision, {}) if clip_vision is not None else {}
    if form not in known:
        size = getattr(clip_vision, "image_size", 224)
        known[form] = encode(clip_vision, torch.zeros(1, size, size, 3), form)
    return known[form]


def encode_reference(
    adapter: ImageAdapter,
    clip_vision: Any,
    image: Tensor,
    negative: Tensor | None = None,
    *,
    faces: Tensor | None = None,
    batch_size: int = 0,
    tiles: int = 1,
    ratio: float = 1.0,
) -> Reference:
    """Make the features that an adapter takes of its reference pictures.

    Parameters
    ----------
    adapter
        Says what it takes.
    clip_vision
        The host's model; may be None where the adapter takes faces alone.
    image, negative
        (pictures, H, W, 3), 0 to 1. Negative None: a black picture where the adapter takes hidden
        states, else zeros.
    faces
        (pictures, size): face embeddings, where the adapter takes them.
    batch_size, tiles, ratio
        As for :func:`encode`.
    """
    positive, negatives = [], []
    for takes in adapter.takes:
        if takes.form == "face":
            if faces is None:
                raise ValueError(
                    f"insightface: this {adapter.kind} adapter takes faces; use IPAdapter FaceID "
                    "with a face analyser connected"
                )
            positive.append(faces)
            negatives.append(torch.zeros_like(faces[:1]))
            continue
        positive.append(
            encode(clip_vision, image, takes.form, batch_size=batch_size, tiles=tiles, ratio=ratio)
        )
        if negative is not None:
            negatives.append(encode(clip_vision, negative, takes.form, batch_size=batch_size))
        elif takes.form == "hidden":
            negatives.append(encode_black(clip_vision, takes.form))
        else:
            negatives.append(torch.zeros_like(positive[-1][:1]))
    return _fitted(Reference(tuple(positive), tuple(negatives)))


def blend_mask(image: Tensor, mask: Tensor, size: int = 224) -> Tensor:
    """Hide from the encoder what a mask leaves out: it gets CLIP's mean colour.

    Parameters
    ----------
    image
        (pictures, H, W, 3), 0 to 1.
    mask
        (1 or pictures, h, w); the square in its middle covers the square in the picture's middle.
    size
        The encoder's side in pixels.

    Returns
    -------
    Tensor
        (pictures, size, size, 3).
    """
    picture = image[..., :3].movedim(-1, 1)
    scale = size / min(picture.shape[-2:])
    height, width = (round(scale * side) for side in picture.shape[-2:])
    picture = middle_square(resize(picture, (height, width))).clamp(0, 1)
    kept = middle_square(mask.reshape(-1, 1, *mask.shape[-2:]).to(picture))
    kept = resize(kept, (size, size)).clamp(0, 1)
    mean = torch.tensor(_CLIP_MEAN).to(picture).view(1, 3, 1, 1)
    return (mean + (picture - mean) * hold(kept, len(picture))).movedim(1, -1)


def _fitted(reference: Reference) -> Reference:
    """Give as many negatives as pictures, or one."""
    count = reference.pictures
    negatives = tuple(n if len(n) == 1 else hold(n, count) for n in reference.negative)
    return replace(reference, negative=negatives)


def _output(clip_vision: Any, image: Tensor, form: str) -> Tensor:
    output = clip_vision.encode_image(image)
    name = "penultimate_hidden_states" if form == "hidden" else "image_embeds"
    return getattr(output, name)


def _cut(picture: Tensor, tiles: int) -> Tensor:
    """Cut a picture (H, W, 3) into tiles (tiles², H // tiles, W // tiles, 3), row by row."""
    height, width = picture.shape[0] // tiles, picture.shape[1] // tiles
    if 0 in (height, width):
        raise ValueError(f"enhance_tiles: {tiles} a side, but the picture is {picture.shape[:2]}")
    rows = picture[: height * tiles, : width * tiles].unflatten(0, (tiles, height))
    return rows.unflatten(2, (tiles, width)).movedim(2, 1).flatten(0, 1)


def _pool(features: Tensor, tiles: int) -> Tensor:
    """Pool the features of tiles² tiles to those of one picture.

    Hidden states hold a class token, of which the mean is taken, and a square grid of patches: the
    tiles' grids are put together and averaged down to one grid. Pooled embeddings are averaged.
    """
    if features.dim() == 2:
        return features.mean(0, keepdim=True)
    side = round((features.shape[1] - 1) ** 0.5)
    grid = features[:, 1:].unflatten(0, (tiles, tiles)).unflatten(2, (side, side))
    whole = grid.permute(4, 0, 2, 1, 3).flatten(3, 4).flatten(1, 2)
    patches = F.adaptive_avg_pool2d(whole[None], (side, side))[0].flatten(1).T
    return torch.cat([features[:, 0].mean(0, keepdim=True), patches])[None]
