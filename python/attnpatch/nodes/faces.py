# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Faces in reference pictures, by any analyser that has insightface's ``get``."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from attnpatch.nodes import host

__all__ = ["Faces", "align_face", "find_faces"]

logger = logging.getLogger("attnpatch")

# Where ArcFace's training pictures of 112 pixels have eyes, nose and corners of the mouth.
_TEMPLATE = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)
_SIZES = range(640, 256, -64)  # sides at which a detector looks, from small faces to close-ups


@dataclass(frozen=True)
class Faces:
    """The face of each picture: embeddings (pictures, size), and crops (pictures, H, W, 3)."""

    embeddings: Tensor
    crops: Tensor


def find_faces(analyser: Any, image: Tensor, *, raw: bool, size: int) -> Faces:
    """Find a face in each picture.

    Parameters
    ----------
    analyser
        Its ``get`` takes a BGR picture (H, W, 3), uint8, and gives faces with ``kps``,
        ``embedding`` and ``normed_embedding``; the first one counts.
    image
        (pictures, H, W, 3), 0 to 1.
    raw
        Whether embeddings are wanted as they are, not divided by their length.
    size
        The side of the crops in pixels.

    Raises
    ------
    ValueError
        Without an analyser, or where a picture shows no face; names the picture.
    """
    if analyser is None:
        raise ValueError(
            "insightface: this adapter takes faces and needs a face analyser; connect an "
            "IPAdapter InsightFace Loader, or use the Unified Loader FaceID"
        )
    pictures = (image[..., :3] * 255).clamp(0, 255).byte().cpu().numpy()
    embeddings, crops = [], []
    for number, picture in enumerate(host.steps(pictures, len(pictures))):
        face = _find(analyser, np.ascontiguousarray(picture[..., ::-1]))
        if face is None:
            of = f" {number + 1} of {len(pictures)}" if len(pictures) > 1 else ""
            raise ValueError(
                f"image: no face found in picture{of} ({picture.shape[1]}×{picture.shape[0]}); "
                "use one that shows a face from the front, with some room around it"
            )
        embedding = face.embedding if raw else face.normed_embedding
        embeddings.append(torch.from_numpy(np.asarray(embedding, dtype=np.float32)))
        crops.append(align_face(picture, face.kps, size))
    return Faces(torch.stack(embeddings), torch.stack(crops))


def align_face(picture: npt.NDArray[np.uint8], points: Any, size: int) -> Tensor:
    """Cut a face out so that its five points lie where ArcFace's training pictures have them.

    Parameters
    ----------
    picture
        (H, W, 3), uint8.
    points
        (5, 2): x and y of the eyes, the nose and the corners of the mouth.
    size
        The side of the result; multiples of 112 scale the template, others leave it the margin of
        a picture of 128 pixels.

    Returns
    -------
    Tensor
        (size, size, 3), 0 to 1; black beyond the picture.
    """
    wide = 112 if size % 112 == 0 else 128
    template = (_TEMPLATE + np.array([(wide - 112) / 2, 0.0])) * (size / wide)
    turn, shift = _similarity(template, np.asarray(points, dtype=np.float64))
    x, y = np.meshgrid(np.arange(size), np.arange(size))
    source = np.stack([x, y], axis=-1) @ turn.T + shift
    height, width = picture.shape[:2]
    grid = (source + 0.5) / [width / 2, height / 2] - 1
    pixels = torch.from_numpy(picture.copy()).float().movedim(-1, 0)[None] / 255
    found = F.grid_sample(
        pixels, torch.from_numpy(grid).float()[None], mode="bilinear", align_corners=False
    )
    return found[0].movedim(0, -1).contiguous()


def _similarity(
    source: npt.NDArray[np.float64], target: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Find the turn, scale and shift that bring points nearest to others.

    Least squares in closed form (Umeyama 1991), equations 40 to 43.
    """
    from_mean, to_mean = source.mean(0), target.mean(0)
    spread = source - from_mean
    left, sizes, right = np.linalg.svd((target - to_mean).T @ spread / len(source))
    signs = np.array([1.0, np.sign(np.linalg.det(left) * np.linalg.det(right)) or 1.0])
    turn = left @ np.diag(signs) @ right
    turn = turn * ((sizes * signs).sum() / spread.var(0).sum())
    return turn, to_mean - turn @ from_mean


def _find(analyser: Any, picture: npt.NDArray[np.uint8]) -> Any:
    """Find the first face; large ones show when the detector looks at a smaller picture."""
    with _detector_kept(analyser) as detector:
        if detector is None:
            return next(iter(analyser.get(picture)), None)
        for side in _SIZES:
            detector.input_size = (side, side)
            faces = analyser.get(picture)
            if len(faces):
                if side != _SIZES[0]:
                    logger.info("face found when looking at %d×%d pixels", side, side)
                return faces[0]
    return None


@contextmanager
def _detector_kept(analyser: Any) -> Iterator[Any]:
    """Give the analyser's detector, if its size can be set, and set it back afterwards."""
    detector = getattr(analyser, "det_model", None)
    if not hasattr(detector, "input_size"):
        yield None
        return
    size = detector.input_size
    try:
        yield detector
    finally:
        detector.input_size = size
