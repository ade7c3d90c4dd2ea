# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Faces: boxes and keypoints on their picture, and each face as recognisers get it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from attnpatch.display.card import badge, card, count, facts, more, part, picture
from attnpatch.display.markup import Markup, join, tag
from attnpatch.display.png import data_uri, shrink
from attnpatch.display.style import colour
from attnpatch.faces import Face, align_face
from attnpatch.pictures import Picture, read_picture
from attnpatch.shown import Shown

__all__ = ["FacesIn", "html"]

_SIDE = 512
_FACES = 12
_LARGEST = 1e6  # a drawing has no larger coordinates
_POINTS = ("eye, left", "eye, right", "nose", "mouth, left", "mouth, right")


@dataclass(frozen=True, eq=False)
class FacesIn(Shown):
    """Faces on the picture that shows them: a display for notebooks.

    Parameters
    ----------
    picture : picture
        A file, a picture of Pillow, an array or a tensor.
    faces : sequence of Face
        What ``FaceAnalysis.detect`` or ``pick`` gives.

    Raises
    ------
    TypeError
        For other values than faces.
    """

    picture: Picture
    faces: Sequence[Face]

    _shown_by = "faces"

    def __post_init__(self) -> None:
        given = self.faces
        if not isinstance(given, list | tuple) or not all(isinstance(f, Face) for f in given):
            raise TypeError(f"faces: expected a list of faces, got {given!r}")
        object.__setattr__(self, "faces", tuple(given))

    def __repr__(self) -> str:
        return f"FacesIn({count(len(self.faces), 'face')})"


def html(shown: FacesIn | Face) -> Markup:
    """Show faces, on their picture where it is known."""
    if isinstance(shown, Face):
        drawn = part(tag("div", facts(_facts(shown)), class_="ap-text"), _alone(shown))
        return card("Face", f"score {shown.score:.2f}", drawn, plain=repr(shown))
    pixels = read_picture(shown.picture, "picture")
    parts = [part(_whole(pixels, shown.faces))]
    for index, face in enumerate(shown.faces[:_FACES]):
        head = tag("div", badge(index), tag("span", f"face {index}", class_="ap-name"))
        parts.append(
            part(
                _crop(pixels, face, index), tag("div", head, facts(_facts(face)), class_="ap-text")
            )
        )
    if len(shown.faces) > _FACES:
        parts.append(part(more(len(shown.faces) - _FACES)))
    title = f"{count(len(shown.faces), 'face')} in {pixels.shape[1]} × {pixels.shape[0]} pixels"
    return card("Faces", title, *parts, plain=repr(shown))


def _facts(face: Face) -> Iterator[tuple[str, object]]:
    left, top, right, bottom = face.box.tolist()
    yield "score", f"{face.score:.3f}"
    size = f"{right - left:.6g} × {bottom - top:.6g} pixels at {left:.6g}, {top:.6g}"
    yield "box", size if _drawable(face) else f"not finite: {face.box.tolist()}"
    yield "found at", f"size {face.size}, padding {face.padding:g}"
    if face.embedding is None:
        yield "embedding", "none"
    else:
        length = np.linalg.norm(face.embedding.astype(np.float64))
        told = f"length {length:.6g}" if np.isfinite(length) else "not finite"
        yield "embedding", f"{face.embedding.size} values, {told}"


def _whole(pixels: np.ndarray, faces: Sequence[Face]) -> Markup:
    height, width = pixels.shape[:2]
    small = shrink(pixels, _SIDE)
    unit = max(height, width) / _SIDE
    drawn = [_marks(face, i, unit) for i, face in enumerate(faces[:_FACES]) if _drawable(face)]
    under = tag("image", href=data_uri(small), width=width, height=height)
    text = f"the picture, with {count(len(faces), 'face')}"
    return _drawing((0, 0, width, height), small.shape[1], text, under, *drawn)


def _crop(pixels: np.ndarray, face: Face, index: int) -> Markup | None:
    """Show a face as recognisers get it; nothing where its keypoints say of no place."""
    try:
        aligned = align_face(pixels, face)
    except ValueError:
        return None
    return picture(aligned, f"face {index}, aligned", height=112, caption="aligned")


def _alone(face: Face) -> Markup | None:
    """Draw box and keypoints where the picture is not known."""
    if not _drawable(face):
        return None
    left, top, right, bottom = face.box.tolist()
    side = max(right - left, bottom - top, 1.0)
    margin = 0.12 * side
    wide, tall = max(0, right - left), max(0, bottom - top)
    view = (left - margin, top - margin, wide + 2 * margin, tall + 2 * margin)
    return _drawing(view, 150, "box and keypoints", _marks(face, 0, side / 150))


def _drawable(face: Face) -> bool:
    """Whether box and keypoints are numbers that a drawing can have."""
    numbers = np.concatenate([np.ravel(face.box), np.ravel(face.keypoints)])
    return bool((np.abs(numbers) < _LARGEST).all())


def _drawing(
    view: tuple[float, float, float, float], width: int, text: str, *children: object
) -> Markup:
    return tag(
        "svg",
        *children,
        viewBox=" ".join(f"{number:.2f}" for number in view),
        width=width,
        role="img",
        aria_label=text,
    )


def _marks(face: Face, index: int, unit: float) -> Markup:
    """Draw a face's box with its number, and its keypoints with their names."""
    left, top, right, bottom = face.box.tolist()
    paint = f"fill:none;stroke:{colour(index)}"
    shape = {"x": left, "y": top, "width": max(0, right - left), "height": max(0, bottom - top)}
    box = join(
        tag("rect", **shape, style="fill:none;stroke:#fff", stroke_width=4 * unit),
        tag("rect", **shape, style=paint, stroke_width=2.2 * unit),
    )
    dots = [
        tag(
            "circle",
            tag("title", name),
            cx=x,
            cy=y,
            r=3 * unit,
            stroke_width=unit,
            style=f"fill:{colour(index)};stroke:#fff",
        )
        for name, (x, y) in zip(_POINTS, face.keypoints.tolist(), strict=True)
    ]
    label = join(
        tag(
            "rect", x=left, y=top, width=16 * unit, height=16 * unit, style=f"fill:{colour(index)}"
        ),
        tag(
            "text",
            index,
            x=left + 8 * unit,
            y=top + 12 * unit,
            text_anchor="middle",
            style=f"fill:var(--ap-on);font-weight:700;font-size:{12 * unit:.2f}px",
        ),
    )
    return join(box, *dots, label)
