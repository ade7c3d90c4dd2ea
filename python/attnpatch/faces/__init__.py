# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Faces in pictures: finding, aligning and recognising them, without insightface or onnxruntime.

No model files come along. Those of insightface (antelopev2, buffalo_l) are for non-commercial
research only, by their authors' words.
"""

from attnpatch.faces.analysis import (
    FaceAnalysis,
    FaceNotFoundError,
    align_face,
    draw_keypoints,
    pick_faces,
)
from attnpatch.faces.face import Face, choose_face
from attnpatch.faces.files import FaceFiles, find_face_files
from attnpatch.faces.interchange import InsightFaceView, as_face_analysis, as_insightface

__all__ = [
    "Face",
    "FaceAnalysis",
    "FaceFiles",
    "FaceNotFoundError",
    "InsightFaceView",
    "align_face",
    "as_face_analysis",
    "as_insightface",
    "choose_face",
    "draw_keypoints",
    "find_face_files",
    "pick_faces",
]
