# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The same as the insightface package, on networks of its files' signatures."""

import networks
import numpy as np
import pytest

from attnpatch import _vision
from attnpatch.faces import Face, FaceAnalysis, FaceFiles, align_face

pytestmark = [
    # skimage's, by insightface's way of calling it
    pytest.mark.filterwarnings("ignore:`estimate` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

PICTURES = [
    ((500, 700), [(300, 200, 60), (550, 400, 30)]),  # wide
    ((701, 311), [(150, 500, 90)]),  # tall, primes
    ((640, 640), [(100, 100, 20), (400, 300, 150)]),  # as large as the square
    ((97, 89), [(40, 50, 30)]),  # enlarged
]


def smooth(picture):
    """The same with soft edges, as photographs have them."""
    wide = np.pad(picture.astype(np.float32), ((3, 3), (3, 3), (0, 0)), mode="edge")
    for axis in (0, 1):
        shifted = [np.roll(wide, shift, axis) for shift in range(-3, 4)]
        wide = np.mean(shifted, axis=0)
    return np.ascontiguousarray(wide[3:-3, 3:-3]).astype(np.uint8)


def write_pack(folder, detector, recogniser):
    (folder / "det.onnx").write_bytes(detector)
    (folder / "rec.onnx").write_bytes(recogniser)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("chain", [False, True], ids=["plain", "resize chain"])
@pytest.mark.parametrize("batched", [False, True], ids=["rows", "batched"])
def test_faces_are_those_of_insightface(tmp_path, insightface_of, recogniser, batched, chain):
    detector = networks.make_detector(batched=batched, chain=chain, seed=3)
    theirs = insightface_of(write_pack(tmp_path, detector, recogniser))
    ours, embedder = FaceAnalysis(tmp_path), _vision.FaceRecogniser(recogniser)
    for (height, width), discs in PICTURES:
        picture = smooth(networks.draw_discs(height, width, discs))
        wanted = theirs.get(np.ascontiguousarray(picture[..., ::-1]))
        found = ours.get(picture)
        assert len(found) == len(wanted) > 0
        for face, want in zip(found, wanted, strict=True):
            np.testing.assert_allclose(face.box, want.bbox, atol=1e-3)
            np.testing.assert_allclose(face.keypoints, want.kps, atol=1e-3)
            np.testing.assert_allclose(face.score, want.det_score, atol=1e-5)
            embedding = embedder.embed(picture, want.kps)
            embedding /= np.linalg.norm(embedding)
            np.testing.assert_allclose(embedding, want.normed_embedding, atol=1e-4)
            # From keypoints of our own, which a release of OpenCV may round otherwise: two steps of
            # float32 change hundreds of the crop's values by 1 of 255, and the embedding by 3e-4.
            np.testing.assert_allclose(face.normed_embedding, want.normed_embedding, atol=1e-3)


@pytest.mark.parametrize("size", [192, 448, 640])
def test_every_square_is_that_of_insightface(tmp_path, insightface_of, recogniser, detector, size):
    theirs = insightface_of(write_pack(tmp_path, detector, recogniser), size)
    ours = FaceAnalysis(tmp_path, sizes=[size])
    picture = networks.draw_discs(300, 400, [(200, 150, 70)])
    boxes, _ = theirs.det_model.detect(np.ascontiguousarray(picture[..., ::-1]))
    found = ours.detect(picture)
    assert len(found) == len(boxes) > 0
    np.testing.assert_allclose([f.box for f in found], boxes[:, :4], atol=0.1)


@pytest.mark.parametrize("own_input", [False, True], ids=["ours", "the network's"])
@pytest.mark.parametrize("batch", [1, "batch"])
def test_embeddings_of_one_crop_agree(tmp_path, batch, own_input):
    onnx_model = pytest.importorskip("insightface.model_zoo.arcface_onnx")
    file = tmp_path / "rec.onnx"
    file.write_bytes(networks.make_recogniser(batch=batch, own_input=own_input))
    picture = networks.draw_discs(112, 112, [(56, 60, 30)])
    # These keypoints are where the template has them: the crop is the picture.
    template = [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366),
                (41.5493, 92.3655), (70.7299, 92.2041)]  # fmt: skip
    ours = _vision.FaceRecogniser(file.read_bytes())
    embedding = ours.embed(picture, np.array(template, np.float32))
    wanted = onnx_model.ArcFaceONNX(str(file)).get_feat(np.ascontiguousarray(picture[..., ::-1]))
    # Twice as wide where the picture keeps its values from 0 to 255.
    np.testing.assert_allclose(embedding, wanted[0], atol=1e-4 * np.linalg.norm(wanted) / 20)


def test_alignment_agrees(insightface_of):
    align = pytest.importorskip("insightface.utils.face_align")
    random = np.random.default_rng(5)
    for _ in range(50):
        turn = random.uniform(-np.pi, np.pi)
        matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        points = random.uniform(-1, 1, (5, 2)) @ matrix * random.uniform(5, 300) + 400
        points = points.astype(np.float32)
        for size in (112, 128, 256):
            wanted = align.estimate_norm(points.astype(np.float64), size)
            np.testing.assert_allclose(
                _vision.face_transform(points, size), wanted, rtol=1e-5, atol=1e-5
            )


def test_crops_agree(insightface_of, astronaut):
    align = pytest.importorskip("insightface.utils.face_align")
    points = np.array([(201, 104), (241, 102), (227, 127), (207, 146), (241, 145)], np.float32)
    face = Face([0, 0, 1, 1], 1.0, points)
    wanted = align.norm_crop(np.ascontiguousarray(astronaut[..., ::-1]), points.astype(np.float64))
    crop = align_face(astronaut, face)
    np.testing.assert_allclose(crop.astype(int), wanted[..., ::-1].astype(int), atol=1)


def test_real_face_is_found(mtcnn, astronaut):
    """By learned weights (MTCNN's, which facenet-pytorch ships) in the form of SCRFD."""
    best = mtcnn.get(astronaut)[0]
    assert best.score > 0.99
    np.testing.assert_allclose(best.box, [178, 56, 270, 176], atol=12)
    left_eye, right_eye, nose, left_mouth, right_mouth = best.keypoints
    assert left_eye[0] < nose[0] < right_eye[0] and left_mouth[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
    assert best.embedding.shape == (512,)


def test_real_face_is_that_of_insightface(tmp_path, insightface_of, mtcnn, astronaut):
    write_pack(tmp_path, networks.make_mtcnn_detector(), networks.make_recogniser())
    wanted = insightface_of(tmp_path).get(np.ascontiguousarray(astronaut[..., ::-1]))
    found = mtcnn.get(astronaut)
    assert len(found) == len(wanted)
    for face, want in zip(found, wanted, strict=True):
        np.testing.assert_allclose(face.box, want.bbox, atol=0.1)
        np.testing.assert_allclose(face.keypoints, want.kps, atol=0.1)
        np.testing.assert_allclose(face.normed_embedding, want.normed_embedding, atol=1e-4)


def test_detector_of_one_size_is_asked_at_that_size(recogniser):
    files = FaceFiles(networks.make_detector(size=320, seed=3), recogniser, "fixed")
    fixed = FaceAnalysis(files)
    anywhere = FaceAnalysis(
        FaceFiles(networks.make_detector(seed=3), recogniser, "any"), sizes=[320]
    )
    picture = networks.draw_discs(300, 300, [(150, 150, 60)])
    found, wanted = fixed.detect(picture), anywhere.detect(picture)
    assert len(found) == len(wanted) > 0
    assert all(a.size == b.size == 320 for a, b in zip(found, wanted, strict=True))
    np.testing.assert_array_equal([f.box for f in found], [f.box for f in wanted])
