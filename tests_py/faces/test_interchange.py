# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Ours for code made for insightface, and insightface's object for ours."""

import networks
import numpy as np
import pytest
from PIL import Image

from attnpatch.faces import InsightFaceView, as_face_analysis, as_insightface, pick_faces
from attnpatch.faces.interchange import OtherAnalysis

pytestmark = pytest.mark.filterwarnings("ignore:`estimate` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def picture():
    return networks.draw_discs(200, 240, [(90, 100, 40)])


def test_ours_in_their_form(analysis, picture):
    view = as_insightface(analysis)
    view.prepare(ctx_id=0, det_size=(640, 640))
    view.det_model.input_size = (320, 320)
    faces = view.get(np.ascontiguousarray(picture[..., ::-1]))
    assert faces == list(analysis.get(picture))
    assert faces[0]["embedding"].flags.writeable
    assert len(view.get(picture[..., ::-1], max_num=1)) == 1
    assert view.get(Image.fromarray(picture)) == faces, "Pillow's order of colours is its own"
    assert as_face_analysis(view) is analysis and isinstance(view, InsightFaceView)


def test_theirs_in_our_form(pack, insightface_of, analysis, picture):
    theirs = insightface_of(pack)
    before = dict(vars(theirs.det_model))
    other = as_face_analysis(theirs)
    assert isinstance(other, OtherAnalysis) and as_face_analysis(other) is other
    (found,) = pick_faces(other, picture)
    (wanted,) = analysis.pick(picture)
    np.testing.assert_allclose(found.box, wanted.box, atol=0.1)
    np.testing.assert_allclose(found.keypoints, wanted.keypoints, atol=0.1)
    assert found.size == wanted.size == 640
    for name in ("input_size", "input_sizes"):
        assert getattr(theirs.det_model, name) == before[name]


def test_their_sizes_are_lowered_and_put_back():
    class Detector:
        input_size = (640, 640)

    class Foreign:
        det_model = Detector()

        def get(self, bgr):
            return [{"bbox": [0, 0, 4, 4], "kps": np.zeros((5, 2))}] * (
                self.det_model.input_size == (384, 384)
            )

    (face,) = as_face_analysis(Foreign()).detect(np.zeros((9, 9, 3), np.uint8))
    assert face.size == 384 and Detector.input_size == (640, 640)


def test_what_is_no_analysis():
    for wrong in (None, 3, {"a": 1}):
        with pytest.raises(TypeError, match="insightface"):
            as_face_analysis(wrong)
