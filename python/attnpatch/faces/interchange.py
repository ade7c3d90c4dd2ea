# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Face analysis between packages: ours for code made for insightface, and insightface's for ours.

Its object is called with BGR pictures, and told the detector's size by an attribute.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

from attnpatch.faces.analysis import SIZES, Analysis, FaceAnalysis
from attnpatch.faces.face import Face
from attnpatch.pictures import Picture, read_picture

__all__ = ["InsightFaceView", "OtherAnalysis", "as_face_analysis", "as_insightface"]


class _DetectorView:
    """What other packs set the detector's size on; ours looks for the best size by itself."""

    taskname = "detection"

    def __init__(self) -> None:
        self.input_size = (SIZES[0], SIZES[0])
        self.det_thresh = 0.5


class InsightFaceView:
    """Our analysis in the form of insightface's: ``get`` takes BGR and gives all faces.

    Parameters
    ----------
    analysis
        Who does the work.
    """

    def __init__(self, analysis: FaceAnalysis) -> None:
        self.analysis = analysis
        self.det_model = _DetectorView()
        self.models = {"detection": self.det_model}

    def prepare(self, ctx_id: int = 0, **options: Any) -> None:
        """Nothing to do: all is ready."""

    def get(self, img: Picture, max_num: int = 0, **options: Any) -> list[Face]:
        """Find and recognise all faces of a picture, best score first.

        Parameters
        ----------
        img
            BGR (H, W, 3); or a file or a picture of Pillow, which know the order of their colours.
        max_num
            How many at most, the largest first; 0: all.
        **options
            Of other releases; they change nothing.
        """
        picture = read_picture(img, "img", bgr=True)
        faces = list(self.analysis.detect(picture))
        if max_num > 0:
            faces = sorted(faces, key=lambda face: -face.area)[:max_num]
        return [self.analysis.recognise(picture, face) for face in faces]

    def __deepcopy__(self, memo: object) -> InsightFaceView:
        return self

    def __repr__(self) -> str:
        return f"InsightFaceView({self.analysis!r})"


class OtherAnalysis:
    """Another package's object in our form.

    Parameters
    ----------
    analysis
        Has ``get(bgr)``, which gives faces with ``bbox``, ``kps`` and ``embedding``; and perhaps
        ``det_model.input_size``, which is then lowered until a face is found, and put back.
    """

    def __init__(self, analysis: Any) -> None:
        self.analysis = analysis
        self._lock = _lock_of(analysis)

    def detect(self, image: Picture) -> tuple[Face, ...]:
        """Find all faces of an RGB picture, best score first, with their embeddings."""
        bgr = np.ascontiguousarray(read_picture(image)[..., ::-1])
        with self._lock:
            return self._search(bgr)

    def recognise(self, image: Picture, face: Face) -> Face:
        """Return the face: it has its embedding already."""
        if face.embedding is None:
            raise ValueError("insightface: it gives faces without an embedding")
        return face

    def _search(self, bgr: npt.NDArray[np.uint8]) -> tuple[Face, ...]:
        detector = getattr(self.analysis, "det_model", None)
        if detector is None or not hasattr(detector, "input_size"):
            return tuple(_read_face(face, 0) for face in self.analysis.get(bgr))
        before = {
            name: getattr(detector, name)
            for name in ("input_size", "input_sizes")
            if hasattr(detector, name)
        }
        try:
            for size in SIZES:
                detector.input_size = (size, size)
                if "input_sizes" in before:  # newer releases go by a list
                    detector.input_sizes = [(size, size)]
                faces = self.analysis.get(bgr)
                if len(faces):
                    return tuple(_read_face(face, size) for face in faces)
        finally:
            for name, value in before.items():
                setattr(detector, name, value)
        return ()

    def __repr__(self) -> str:
        return f"OtherAnalysis({self.analysis!r})"


def as_insightface(analysis: FaceAnalysis) -> InsightFaceView:
    """Return our analysis in the form of insightface's object, for code made for that."""
    return InsightFaceView(analysis)


def as_face_analysis(value: Any) -> Analysis:
    """Read what a socket for face analysis holds: ours, or another package's.

    Raises
    ------
    TypeError
        For what has no ``get``.
    """
    if isinstance(value, FaceAnalysis | OtherAnalysis):
        return value
    if isinstance(value, InsightFaceView):
        return value.analysis
    if not callable(getattr(value, "get", None)) or isinstance(value, dict):
        raise TypeError(
            "insightface: expected a FaceAnalysis, of ours or of insightface, "
            f"got {type(value).__name__}"
        )
    return OtherAnalysis(value)


_locks: weakref.WeakKeyDictionary[Any, threading.Lock] = weakref.WeakKeyDictionary()
_locks_lock = threading.Lock()


def _lock_of(analysis: Any) -> threading.Lock:
    """One lock for each object of another package, as its size is changed while it works."""
    with _locks_lock:
        try:
            return _locks.setdefault(analysis, threading.Lock())
        except TypeError:  # it takes no weak references
            return threading.Lock()


def _read_face(face: Any, size: int) -> Face:
    def part(name: str) -> Any:
        value = getattr(face, name, None)
        return face[name] if value is None and hasattr(face, "__getitem__") else value

    embedding = getattr(face, "embedding", None)
    score = getattr(face, "det_score", None)
    return Face(part("bbox"), 1.0 if score is None else score, part("kps"), embedding, size)
