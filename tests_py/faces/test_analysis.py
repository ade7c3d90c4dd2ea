# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
import logging
import pickle
from concurrent.futures import ThreadPoolExecutor

import networks
import numpy as np
import pytest
import torch
from PIL import Image

from attnpatch.faces import (
    Face,
    FaceAnalysis,
    FaceFiles,
    FaceNotFoundError,
    align_face,
    choose_face,
    draw_keypoints,
    pick_faces,
)
from attnpatch.faces.analysis import SIZES

DISCS = [(60, 60, 20), (160, 60, 40), (260, 60, 25)]


@pytest.fixture(scope="module")
def three():
    return networks.draw_discs(130, 330, DISCS)


def faces():
    boxes = [(40, 40, 80, 80), (120, 20, 200, 100), (235, 35, 285, 85)]
    points = np.zeros((5, 2), np.float32)
    return [Face(box, score, points) for box, score in zip(boxes, (0.7, 0.8, 0.9), strict=True)]


@pytest.mark.parametrize(
    ("order", "index", "place"),
    [
        ("largest", 0, 1),
        ("largest", 1, 2),
        ("left to right", 0, 0),
        ("left to right", -1, 2),
        ("score", 0, 2),
        ("centre", 0, 1),
        ("centre", 2, 0),
    ],
)
def test_choosing_a_face(order, index, place):
    found = choose_face(faces(), order=order, index=index, picture=(130, 330))
    assert found == faces()[place]


def test_choosing_among_too_few():
    assert choose_face(faces(), index=3) is None
    assert choose_face([], index=-1) is None
    with pytest.raises(ValueError, match="order"):
        choose_face(faces(), order="biggest")
    with pytest.raises(ValueError, match="picture"):
        choose_face(faces(), order="centre")


def test_pictures_in_any_form_show_the_same_faces(analysis, three):
    wanted = analysis.get(three)
    floats = three.astype(np.float32) / 255 + 1e-4  # cut to 8 bits, not rounded
    for form in (Image.fromarray(three), torch.from_numpy(floats).clamp(0, 1), floats[None]):
        assert analysis.get(form) == wanted
    assert analysis.get(np.flip(three[:, ::-1], 1)) == wanted


def test_phone_pictures_are_taken_upright(analysis, three, tmp_path):
    """A phone stores pictures as its sensor lay, and writes down how to turn them."""
    wanted = analysis.get(three)
    sideways = Image.fromarray(np.rot90(three))
    sideways.getexif()[0x0112] = 6
    path = tmp_path / "phone.png"
    sideways.save(path, exif=sideways.getexif())
    for form in (path, str(path), sideways, Image.open(path)):
        assert analysis.get(form) == wanted
        assert analysis.recognise(form, analysis.detect(form)[0]) == wanted[0]
        assert np.array_equal(align_face(form, wanted[0]), align_face(three, wanted[0]))
    assert analysis.pick([path, three]) == analysis.pick(three) * 2


def test_faces_on_what_is_transparent(analysis, three):
    cut = Image.fromarray(three).convert("RGBA")
    cut.paste((240, 20, 20, 0), (0, 0, 110, 130))  # over the first face
    shown = three.copy()
    shown[:, :110] = 255
    wanted = analysis.get(shown)
    assert analysis.get(cut) == wanted != analysis.get(three)


def test_pictures_that_are_none(analysis):
    for wrong in (np.zeros((4, 4)), np.zeros((0, 4, 3)), np.zeros((2, 4, 4, 3))):
        with pytest.raises(ValueError, match="image"):
            analysis.detect(wrong)
    for wrong in (np.full((9, 9, 3), 255.0), np.full((9, 9, 3), np.nan)):
        with pytest.raises(ValueError, match="finite values in"):
            analysis.detect(wrong)
    with pytest.raises(TypeError, match="int64"):
        analysis.detect(np.zeros((9, 9, 3), np.int64))


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (2, 2), (4001, 33)])
def test_pictures_of_any_size(analysis, shape):
    picture = np.full((*shape, 3), (240, 20, 20), np.uint8)
    for face in analysis.get(picture):
        assert np.isfinite(face.box).all() and np.isfinite(face.embedding).all()


def test_several_pictures(analysis, three):
    dark = np.zeros_like(three)
    one, two = analysis.pick([three, three[:, :100]])
    assert one.embedding.shape == two.embedding.shape == (512,)
    with pytest.raises(FaceNotFoundError, match=r"picture 1 \(330 × 130\) shows no face.*black"):
        analysis.pick([three, dark])
    assert len(analysis.pick([three, dark], on_no_face="skip")) == 1
    assert analysis.pick([dark, three], on_no_face="zero")[0] is None
    with pytest.raises(FaceNotFoundError):
        analysis.pick([dark, dark], on_no_face="skip")
    with pytest.raises(FaceNotFoundError, match="not number 999"):
        analysis.pick(three, index=999)
    with pytest.raises(ValueError, match="on_no_face"):
        analysis.pick(three, on_no_face="ignore")
    with pytest.raises(ValueError, match="at least one"):
        analysis.pick([])


def test_picked_faces_are_recognised_alone(analysis, three):
    (found,) = pick_faces(analysis, three, order="left to right", embeddings=False)
    assert found.embedding is None
    with pytest.raises(ValueError, match="no embedding"):
        _ = found.normed_embedding
    (whole,) = analysis.pick(three, order="left to right")
    assert analysis.recognise(three, found) == whole
    assert np.linalg.norm(whole.normed_embedding) == pytest.approx(1, abs=1e-6)


@pytest.mark.slow
def test_smaller_squares_and_padding_are_tried(mtcnn, astronaut, caplog):
    """A face that fills the picture is found at a smaller size, or with black around it."""
    left, top, right, bottom = mtcnn.detect(astronaut)[0].box.astype(int)
    close = np.ascontiguousarray(astronaut[top + 8 : bottom - 8, left + 4 : right - 4])
    assert not FaceAnalysisAt(mtcnn, [640], [0.0], 0.9).detect(close)
    with caplog.at_level(logging.INFO, "attnpatch"):
        best = FaceAnalysisAt(mtcnn, SIZES, [0.0, 0.5], 0.9).detect(close)[0]
    assert best.size < 640 or best.padding > 0
    height, width = close.shape[:2]
    assert best.area > 0.5 * height * width
    assert "face detection: found at size" in caplog.text


class FaceAnalysisAt(FaceAnalysis):
    """One analysis with other sizes."""

    def __init__(self, other, sizes, paddings, threshold=0.7):
        self.__dict__.update(other.__dict__)
        self.sizes, self.paddings, self.threshold = tuple(sizes), tuple(paddings), threshold


def test_padding_moves_boxes_back(mtcnn, astronaut):
    plain = FaceAnalysisAt(mtcnn, [320], [0.0]).detect(astronaut)[0]
    padded = FaceAnalysisAt(mtcnn, [640], [0.5]).detect(astronaut)[0]
    np.testing.assert_allclose(padded.box, plain.box, atol=4)
    assert (padded.size, padded.padding) == (640, 0.5)


@pytest.mark.slow
def test_threads_find_the_same(analysis, three):
    wanted = analysis.get(three)
    with ThreadPoolExecutor(4) as pool:
        assert all(found == wanted for found in pool.map(analysis.get, [three] * 8))


def test_faces_are_values(analysis, three):
    face = analysis.get(three)[0]
    assert pickle.loads(pickle.dumps(face)) == face and hash(face) == hash(face)
    assert face["bbox"].tolist() == face.box.tolist() and face.get("nothing", 3) == 3
    with pytest.raises(ValueError, match="read-only"):
        face.box[0] = 1
    with pytest.raises(KeyError):
        face["gender"]
    with pytest.raises(ValueError, match="keypoints"):
        Face([0, 0, 1, 1], 1, np.zeros((4, 2)))


def test_a_pack_without_recogniser(detector, three):
    alone = FaceAnalysis(FaceFiles(detector, None, "alone"))
    face = alone.detect(three)[0]
    with pytest.raises(ValueError, match="alone: no recogniser"):
        alone.recognise(three, face)


def test_drawings_and_crops(three, analysis):
    face = analysis.get(three)[0]
    drawn = draw_keypoints(face, 130, 330)
    assert drawn.shape == three.shape and np.array_equal(
        drawn, draw_keypoints(face.keypoints, 130, 330)
    )
    assert not draw_keypoints(None, 7, 9).any()
    assert align_face(three, face, 224).shape == (224, 224, 3)
    with pytest.raises(ValueError, match="size"):
        align_face(three, face, 100)
    with pytest.raises(ValueError, match="keypoints"):
        draw_keypoints(np.full((5, 2), np.nan), 9, 9)


def test_drawing_is_that_of_the_reference():
    """The reference draws with OpenCV's Python package."""
    cv2 = pytest.importorskip("cv2")
    random = np.random.default_rng(7)
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)]
    for _ in range(20):
        points = random.uniform(-20, 220, (5, 2)).astype(np.float32)
        wanted = np.zeros((200, 200, 3))
        for outer in (0, 1, 3, 4):
            pair = points[[outer, 2]].astype(np.float64)
            along = pair[0] - pair[1]
            outline = cv2.ellipse2Poly(
                tuple(int(c) for c in pair.mean(0)), (int(np.hypot(*along) / 2), 4),
                int(np.degrees(np.arctan2(along[1], along[0]))), 0, 360, 1,
            )  # fmt: skip
            wanted = cv2.fillConvexPoly(wanted, outline, colors[outer])
        wanted = (wanted * 0.6).astype(np.uint8)
        for point, color in zip(points, colors, strict=True):
            wanted = cv2.circle(wanted, tuple(int(c) for c in point), 10, color, -1)
        differs = (draw_keypoints(points, 200, 200) != wanted).any(-1)
        assert differs.sum() <= 20
