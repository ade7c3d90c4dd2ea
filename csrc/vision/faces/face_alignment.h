// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// A face brought to the place where recognisers expect it: the similarity transform
// M = [sR | t] that minimises sum_i |sR p_i + t - q_i|^2 (Umeyama 1991, equations 40 to 42, no
// reflection) takes the keypoints p to the template q of ArcFace, for pictures of 112 pixels:
//
//   (38.2946, 51.6963) (73.5318, 51.5014) (56.0252, 71.7366) (41.5493, 92.3655) (70.7299, 92.2041)

#pragma once

#include <opencv2/core.hpp>

#include "vision/faces/face_detector.h"

namespace attnpatch::vision::faces {

// M for a crop of `size` pixels, a multiple of 112 or of 128 (then the template is scaled to the
// middle 112/128). Throws std::invalid_argument for other sizes, and for keypoints that are not
// finite or all at one place.
cv::Matx23d face_transform(const Keypoints& keypoints, int size);

// The aligned face: bilinear, black where the picture ends. picture: CV_8UC3, of at least one
// pixel, else std::invalid_argument.
cv::Mat align_face(const cv::Mat& picture, const Keypoints& keypoints, int size);

}  // namespace attnpatch::vision::faces
