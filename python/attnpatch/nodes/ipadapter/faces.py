# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Faces in reference pictures, by our face analysis or insightface's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnpatch.faces import FaceAnalysis, align_face, as_face_analysis, as_insightface, pick_faces
from attnpatch.nodes import comfy
from attnpatch.pictures import read_pictures

__all__ = ["Faces", "find_faces", "load_analyser"]


@dataclass(frozen=True)
class Faces:
    """The face of each picture: embeddings (pictures, size), and crops (pictures, H, W, 3)."""

    embeddings: Tensor
    crops: Tensor


def find_faces(analyser: Any, image: Tensor, *, raw: bool, size: int) -> Faces:
    """Find the clearest face in each picture.

    Parameters
    ----------
    analyser
        Ours or insightface's.
    image
        (pictures, H, W, 3), 0 to 1.
    raw
        Whether embeddings are wanted as they are, not divided by their length.
    size
        The side of the crops in pixels: a multiple of 112 or 128.

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
    pictures = read_pictures(image[..., :3].clamp(0, 1))
    by_picture = pick_faces(as_face_analysis(analyser), pictures, order="score")
    faces = [face for face in by_picture if face is not None]
    embeddings = [face.embedding if raw else face.normed_embedding for face in faces]
    crops = [align_face(p, face, size) for p, face in zip(pictures, faces, strict=True)]
    return Faces(
        torch.from_numpy(np.stack([np.asarray(e) for e in embeddings])),
        torch.from_numpy(np.stack(crops)).float() / 255,
    )


@lru_cache(maxsize=1)
def load_analyser(name: str) -> Any:
    """Load the networks that find and recognise faces, from the host's models/insightface.

    Parameters
    ----------
    name
        The pack of models: "buffalo_l" or "antelopev2".

    Returns
    -------
    object
        Our analysis, in insightface's form, so that nodes of other packs take it as well.

    Raises
    ------
    FileNotFoundError
        Where the models are missing, naming the places.
    """
    return as_insightface(FaceAnalysis(name, folders=[comfy.folder("models") / "insightface"]))
