# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""`attnpatch face`: a page that shows what is found in a photograph, and an identity at work."""

from __future__ import annotations

import argparse
import importlib.util
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw

from attnpatch.demo.face_model import identity_section
from attnpatch.demo.face_networks import make_mtcnn_detector
from attnpatch.demo.sheet import ACCENT, SOFT, Section, Tile, contact_sheet
from attnpatch.faces import (
    Face,
    FaceAnalysis,
    FaceFiles,
    align_face,
    draw_keypoints,
    pick_faces,
)
from attnpatch.faces.face import Order
from attnpatch.pictures import Pixels, read_picture

__all__ = ["run"]

_MTCNN_THRESHOLD = 0.9  # the last of three networks, alone: two others would tell it where to look
_SMALL = 28  # pixels a side of what the stand-in for a recogniser looks at


def run(arguments: argparse.Namespace) -> int:
    """Write the page; returns the exit status."""
    photograph, name = _photograph(arguments.picture)
    analysis = _analysis(arguments.models)
    own = arguments.models is not None
    faces = analysis.detect(photograph)
    begin = time.perf_counter()
    order: Order = "largest" if own else "score"
    (face,) = pick_faces(analysis, photograph, order=order, embeddings=own)
    spent = time.perf_counter() - begin
    assert face is not None  # where there is none, that was an error
    if not own:
        face = replace(face, embedding=_stand_in(align_face(photograph, face)))
    sections = (_face_section(photograph, faces, face, spent), identity_section(face, arguments))
    sheet = contact_sheet("A face", f"{name}; networks: {analysis.source}", sections, 190)
    sheet.save(arguments.output)
    print(f"Page: {arguments.output}")
    return 0


def _photograph(path: str | None) -> tuple[Pixels, str]:
    """Read a photograph, or take the one that scikit-image brings; with its name."""
    if path is not None:
        return read_picture(path, "picture"), Path(path).name
    if importlib.util.find_spec("skimage") is None:
        raise ValueError("picture: give one, or install scikit-image, which brings a photograph")
    from skimage.data import astronaut

    return np.ascontiguousarray(astronaut()), "Eileen Collins, photograph by NASA, public domain"


def _analysis(models: str | None) -> FaceAnalysis:
    """Load the user's networks, or make a detector of weights that another package brings."""
    if models is not None:
        try:
            return FaceAnalysis(models)
        except (OSError, ValueError) as error:
            raise ValueError(f"--models: {error}") from error
    has_onnx = importlib.util.find_spec("onnx") is not None
    detector = make_mtcnn_detector() if has_onnx else None
    if detector is None:
        raise ValueError(
            "--models: give a pack of insightface (antelopev2, buffalo_l), or install onnx and "
            "facenet-pytorch (with --no-deps), which brings a detector"
        )
    source = "MTCNN's detector, as facenet-pytorch brings it; no recogniser"
    return FaceAnalysis(FaceFiles(detector, None, source), threshold=_MTCNN_THRESHOLD)


def _stand_in(crop: Pixels) -> npt.NDArray[np.float32]:
    """Make 512 values of an aligned face that follow from it, and say nothing about who it is."""
    small = np.asarray(Image.fromarray(crop).resize((_SMALL, _SMALL)), np.float32) / 127.5 - 1
    generator = torch.Generator().manual_seed(3)
    matrix = torch.randn(small.size, 512, generator=generator) / small.size**0.5
    return (torch.from_numpy(small.reshape(-1)) @ matrix).numpy()


def _face_section(photograph: Pixels, faces: tuple[Face, ...], face: Face, spent: float) -> Section:
    marked = Image.fromarray(photograph)
    pen = ImageDraw.Draw(marked)
    width = max(2, max(marked.size) // 200)
    for other in faces:
        pen.rectangle([float(v) for v in other.box], outline=SOFT, width=width)
    pen.rectangle([float(v) for v in face.box], outline=ACCENT, width=width)
    for x, y in face.keypoints.tolist():
        pen.ellipse([x - width, y - width, x + width, y + width], fill=ACCENT)
    drawn = Image.fromarray(draw_keypoints(face, *photograph.shape[:2]))
    left, top, right, bottom = (float(v) for v in face.box)
    middle, side = ((left + right) / 2, (top + bottom) / 2), max(right - left, bottom - top)
    near = [round(m + sign * side) for sign in (-1, 1) for m in middle]
    tiles = (
        Tile(_square(marked), "found", f"{len(faces)} at size {face.size}, score {face.score:.2f}"),
        Tile(Image.fromarray(align_face(photograph, face, 224)), "aligned", "for the recogniser"),
        Tile(drawn.crop(near), "keypoints", "near the face; for InstantID's ControlNet"),
    )
    text = f"By OpenCV alone, in {spent:.2f} s on the CPU."
    return Section("Faces in a photograph", text, (tiles,))


def _square(picture: Image.Image) -> Image.Image:
    """Put a picture on a square."""
    side = max(picture.size)
    square = Image.new("RGB", (side, side))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square
