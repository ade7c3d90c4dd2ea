// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// The picture of a face's keypoints that InstantID's ControlNet was trained on: on black, each eye
// and each corner of the mouth joined to the nose by a filled ellipse of half-width 4 in the outer
// point's colour, all that times 0.6; then a disc of radius 10 on each point, in red, green, blue,
// yellow and magenta.

#pragma once

#include <opencv2/core.hpp>

#include "vision/faces/face_detector.h"

namespace attnpatch::vision::faces {

// canvas: RGB, CV_8UC3, overwritten. Throws std::invalid_argument for points that are not finite or
// more than 1e6 pixels off.
void draw_keypoints(const Keypoints& keypoints, cv::Mat& canvas);

}  // namespace attnpatch::vision::faces
