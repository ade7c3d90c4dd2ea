// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Looking for faces of any size: a detector misses faces that fill its square, so that the square
// is made smaller step by step, and then the picture is put on black, until a face is found.

#pragma once

#include <opencv2/core.hpp>
#include <vector>

#include "vision/faces/face_detector.h"

namespace attnpatch::vision::faces {

struct FaceSearch {
  std::vector<int> sizes;       // of the square, in order; of DetectOptions
  std::vector<float> paddings;  // each with all sizes, in order; of DetectOptions
  float threshold = 0.5F;
};

struct FacesFound {
  std::vector<Detection> faces;  // best first; none: nothing was found anywhere
  DetectOptions at;              // how they were found
};

// A detector of one fixed size is asked at that size alone.
FacesFound find_faces(const FaceDetector& detector, const cv::Mat& picture,
                      const FaceSearch& search);

}  // namespace attnpatch::vision::faces
