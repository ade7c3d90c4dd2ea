# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""One face of a picture, and which of several is meant."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from attnpatch.shown import Shown

__all__ = ["ORDERS", "Face", "Order", "check_order", "choose_face"]

Floats = npt.NDArray[np.float32]
Order = Literal["largest", "left to right", "centre", "score"]
ORDERS: tuple[str, ...] = get_args(Order)


@dataclass(frozen=True, eq=False)
class Face(Shown):
    """A face: where it is, and whose.

    It also answers to insightface's names (``bbox``, ``kps``, ``det_score``), as attributes and as
    keys, so that code made for that package takes it.

    Parameters
    ----------
    box
        float32 (4,): left, top, right, bottom, in pixels of the picture.
    score
        How sure the detector is, 0 to 1.
    keypoints
        float32 (5, 2), x and y in pixels: eyes, nose, corners of the mouth; the left ones as we see
        them come first.
    embedding
        float32 (512,), not normalised; None where none was asked for.
    size, padding
        How it was found: the side of the detector's square in pixels, and the black around the
        picture as a part of its longer side.
    """

    box: Floats
    score: float
    keypoints: Floats
    embedding: Floats | None = None
    size: int = 640
    padding: float = 0.0

    _shown_by = "faces"

    def __post_init__(self) -> None:
        for name, shape in (("box", (4,)), ("keypoints", (5, 2)), ("embedding", None)):
            value = getattr(self, name)
            if value is None and name == "embedding":
                continue
            array = np.array(value, dtype=np.float32)
            if (shape is not None and array.shape != shape) or (shape is None and array.ndim != 1):
                raise ValueError(f"{name}: expected the shape {shape or '(D,)'}, got {array.shape}")
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        object.__setattr__(self, "score", float(self.score))

    @property
    def area(self) -> float:
        """Of the box, in pixels."""
        left, top, right, bottom = self.box.tolist()
        return (right - left) * (bottom - top)

    @property
    def centre(self) -> tuple[float, float]:
        """Of the box, x and y in pixels."""
        left, top, right, bottom = self.box.tolist()
        return (left + right) / 2, (top + bottom) / 2

    @property
    def embedding_norm(self) -> float:
        """Length of the embedding."""
        return float(np.linalg.norm(self._embedding()))

    @property
    def normed_embedding(self) -> Floats:
        """The embedding divided by its length."""
        embedding = self._embedding()
        length = np.linalg.norm(embedding)
        return embedding / length if length > 0 else embedding

    def _embedding(self) -> Floats:
        if self.embedding is None:
            raise ValueError("face: it has no embedding; ask the analysis for one")
        return self.embedding

    @property
    def bbox(self) -> Floats:
        """The box."""
        return self.box

    @property
    def kps(self) -> Floats:
        """The keypoints."""
        return self.keypoints

    @property
    def det_score(self) -> float:
        """The score."""
        return self.score

    def keys(self) -> tuple[str, ...]:
        """Names that it has by insightface's words."""
        return ("bbox", "kps", "det_score", "embedding")

    def get(self, name: str, default: Any = None) -> Any:
        """Read a part by its name."""
        return getattr(self, name, default)

    def __getitem__(self, name: str) -> Any:
        try:
            value = getattr(self, name)
        except (AttributeError, TypeError):
            raise KeyError(name) from None
        return value.copy() if isinstance(value, np.ndarray) else value  # others write into theirs

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Face):
            return NotImplemented
        mine, theirs = self._parts(), other._parts()
        return all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))

    def _parts(self) -> tuple[Any, ...]:
        embedding = () if self.embedding is None else self.embedding
        return (self.box, self.score, self.keypoints, embedding, self.size, self.padding)

    def __hash__(self) -> int:
        return hash((self.box.tobytes(), self.keypoints.tobytes(), self.score))


def check_order(order: str) -> None:
    """Raise ValueError unless it is one of ``ORDERS``."""
    if order not in ORDERS:
        raise ValueError(f"order: expected one of {', '.join(map(repr, ORDERS))}, got {order!r}")


def choose_face(
    faces: Sequence[Face],
    *,
    order: Order = "largest",
    index: int = 0,
    picture: tuple[int, int] | None = None,
) -> Face | None:
    """Choose one of several faces.

    Parameters
    ----------
    faces
        Of one picture.
    order
        "largest" area first, "left to right", nearest to the picture's "centre" first, or best
        "score" first.
    index
        Which of them in that order; negative: from the end.
    picture
        Height and width in pixels; "centre" needs it.

    Returns
    -------
    Face or None
        None where there are not so many.

    Raises
    ------
    ValueError
        An unknown order, or "centre" without a picture.
    """
    check_order(order)
    index = operator.index(index)
    if order == "largest":
        ordered = sorted(faces, key=lambda face: -face.area)
    elif order == "left to right":
        ordered = sorted(faces, key=lambda face: face.centre)
    elif order == "score":
        ordered = sorted(faces, key=lambda face: -face.score)
    else:
        if picture is None:
            raise ValueError("picture: its height and width are needed to find the centre")
        y, x = picture[0] / 2, picture[1] / 2
        ordered = sorted(
            faces, key=lambda face: (face.centre[0] - x) ** 2 + (face.centre[1] - y) ** 2
        )
    return ordered[index] if -len(ordered) <= index < len(ordered) else None
