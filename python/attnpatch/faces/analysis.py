# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Face analysis: which faces a picture shows, and the values that tell one from another."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from attnpatch._native import vision_module
from attnpatch.faces.face import Face, Order, check_order, choose_face
from attnpatch.faces.files import FaceFiles, find_face_files
from attnpatch.pictures import Picture, Pictures, read_picture, read_pictures

__all__ = [
    "SIZES",
    "Analysis",
    "FaceAnalysis",
    "FaceNotFoundError",
    "align_face",
    "draw_keypoints",
    "pick_faces",
]

logger = logging.getLogger("attnpatch")

SIZES = tuple(range(640, 128, -64))
"""Sides of the detector's square, in the order in which they are tried."""

OnNoFace = Literal["error", "skip", "zero"]
_ON_NO_FACE = ("error", "skip", "zero")


class FaceNotFoundError(ValueError):
    """A picture shows no face, or not as many as were asked for."""


class Analysis(Protocol):
    """What finds and recognises faces: `FaceAnalysis`, or another package's object in its form."""

    def detect(self, image: Picture) -> tuple[Face, ...]:
        """Find all faces of a picture, best score first."""
        ...

    def recognise(self, image: Picture, face: Face) -> Face:
        """Give the same face with its embedding."""
        ...


class FaceAnalysis:
    """Finds and recognises faces. Safe to use from several threads.

    Parameters
    ----------
    source
        A pack's name ("antelopev2", which InstantID was trained with, or "buffalo_l"), a folder or
        a zip file; see `find_face_files`. Or what that function gives.
    folders
        Where to look for a name first.
    threshold
        Least score of a face.
    sizes
        Sides of the detector's square, multiples of 32, tried in order until a face is found: faces
        that fill the picture are missed at large ones.
    paddings
        Black around the picture, as parts of its longer side, each tried with all sizes, in order;
        for faces that go beyond the picture's edge.

    Raises
    ------
    FileNotFoundError
        Naming all paths that were tried.
    ValueError
        For files that are no such networks.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | FaceFiles = "antelopev2",
        *,
        folders: Iterable[str | os.PathLike[str]] = (),
        threshold: float = 0.5,
        sizes: Sequence[int] = SIZES,
        paddings: Sequence[float] = (0.0, 0.5),
    ) -> None:
        files = source if isinstance(source, FaceFiles) else find_face_files(source, folders)
        native = vision_module("attnpatch.faces", faces=True)
        self.source = files.source
        self.threshold = float(threshold)
        self.sizes = tuple(int(size) for size in sizes)
        self.paddings = tuple(float(padding) for padding in paddings)
        if not self.sizes or not self.paddings:
            raise ValueError("sizes, paddings: expected at least one of each")
        try:
            self._detector = native.FaceDetector(files.detector)
            self._recogniser = (
                None if files.recogniser is None else native.FaceRecogniser(files.recogniser)
            )
        except ValueError as error:
            raise ValueError(f"{files.source}: {error}") from None

    def detect(self, image: Picture) -> tuple[Face, ...]:
        """Find all faces of a picture.

        Parameters
        ----------
        image
            A file, a picture of Pillow, an array or a tensor; see
            `attnpatch.pictures.read_picture`. What is transparent counts as white.

        Returns
        -------
        tuple of Face
            Without embeddings, best score first; empty where there is none. Each says at which size
            and padding it was found.
        """
        detection = self._detector.find(
            read_picture(image), self.sizes, self.paddings, self.threshold
        )
        boxes, scores, keypoints, size, padding = detection
        if len(boxes) and (size, padding) != (self.sizes[0], self.paddings[0]):
            logger.info("face detection: found at size %d, padding %g", size, padding)
        return tuple(
            Face(box, score, points, size=size, padding=padding)
            for box, score, points in zip(boxes, scores.tolist(), keypoints, strict=True)
        )

    def recognise(self, image: Picture, face: Face) -> Face:
        """Give a face of the picture `image` with its embedding.

        Raises
        ------
        ValueError
            Where the pack has no recogniser.
        """
        if self._recogniser is None:
            raise ValueError(
                f"{self.source}: no recogniser is there (such as glintr100.onnx or w600k_r50.onnx)"
            )
        picture = read_picture(image)
        return replace(face, embedding=self._recogniser.embed(picture, face.keypoints))

    def get(self, image: Picture) -> tuple[Face, ...]:
        """Find and recognise all faces of a picture, as `detect` and `recognise` do.

        The colours are RGB. `as_insightface` is for code made for insightface, which takes BGR.
        """
        picture = read_picture(image)
        return tuple(self.recognise(picture, face) for face in self.detect(picture))

    def pick(
        self,
        images: Pictures,
        *,
        order: Order = "largest",
        index: int = 0,
        on_no_face: OnNoFace = "error",
    ) -> list[Face | None]:
        """Take one face of each picture; see `pick_faces`."""
        return pick_faces(self, images, order=order, index=index, on_no_face=on_no_face)

    def __repr__(self) -> str:
        return f"FaceAnalysis({self.source!r})"


def pick_faces(
    analysis: Analysis,
    images: Pictures,
    *,
    order: Order = "largest",
    index: int = 0,
    on_no_face: OnNoFace = "error",
    embeddings: bool = True,
) -> list[Face | None]:
    """Take one face of each picture.

    Parameters
    ----------
    analysis
        Who finds and recognises them.
    images
        A picture (a file, one of Pillow, an RGB array or tensor), a batch (B, H, W, 3), or a list
        or tuple of pictures; see `attnpatch.pictures.read_pictures`.
    order, index
        Which face; see `choose_face`.
    on_no_face
        For a picture without such a face: "error" raises, "skip" leaves the picture out, "zero"
        puts None in its place (whose embedding counts as zeros).
    embeddings
        Whether to recognise the faces too.

    Returns
    -------
    list of Face or None

    Raises
    ------
    FaceNotFoundError
        Saying which picture shows no such face; also where "skip" leaves none.
    """
    check_order(order)
    if on_no_face not in _ON_NO_FACE:
        known = ", ".join(map(repr, _ON_NO_FACE))
        raise ValueError(f"on_no_face: expected one of {known}, got {on_no_face!r}")
    pictures = read_pictures(images)
    if not pictures:
        raise ValueError("images: expected at least one picture, got a batch of none")
    picked: list[Face | None] = []
    problems: list[str] = []
    for number, picture in enumerate(pictures):
        faces = analysis.detect(picture)
        face = choose_face(faces, order=order, index=index, picture=picture.shape[:2])
        if face is not None:
            picked.append(analysis.recognise(picture, face) if embeddings else face)
            continue
        problems.append(_describe(number, picture, len(faces), order, index))
        if on_no_face == "error":
            raise FaceNotFoundError(f"No face detected: {problems[-1]}")
        if on_no_face == "zero":
            picked.append(None)
    if not picked:
        raise FaceNotFoundError(f"No face detected: {'; '.join(problems)}")
    for problem in problems:
        logger.warning("face analysis: %s", problem)
    return picked


def _describe(number: int, picture: npt.NDArray[Any], faces: int, order: str, index: int) -> str:
    height, width = picture.shape[:2]
    what = "shows no face" if faces == 0 else f"shows {faces} of them, not number {index}, {order}"
    dark = ", and is almost black" if picture.max() < 16 else ""
    return f"picture {number} ({width} × {height}) {what}{dark}"


def align_face(image: Picture, face: Face, size: int = 112) -> npt.NDArray[np.uint8]:
    """Cut a face out, upright and at the place where recognisers expect it.

    Parameters
    ----------
    image
        The picture that shows it; see `attnpatch.pictures.read_picture`.
    face
        One of its faces.
    size
        Side of the result: a multiple of 112 or 128.

    Returns
    -------
    ndarray
        uint8 (size, size, 3).
    """
    return vision_module("attnpatch.faces", faces=True).align_face(
        read_picture(image), face.keypoints, size
    )


def draw_keypoints(
    face: Face | npt.ArrayLike | None, height: int, width: int
) -> npt.NDArray[np.uint8]:
    """Draw keypoints as InstantID's ControlNet takes them.

    Parameters
    ----------
    face
        A face, or keypoints (5, 2) as x and y in pixels; None: a black picture.
    height, width
        Of the result, in pixels.

    Returns
    -------
    ndarray
        uint8 (height, width, 3), RGB.
    """
    if face is None:
        return np.zeros((height, width, 3), dtype=np.uint8)
    points = face.keypoints if isinstance(face, Face) else np.asarray(face, dtype=np.float32)
    return vision_module("attnpatch.faces", faces=True).draw_keypoints(
        np.ascontiguousarray(points), height, width
    )
