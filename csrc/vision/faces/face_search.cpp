// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "vision/faces/face_search.h"

#include <vector>

namespace attnpatch::vision::faces {

FacesFound find_faces(const FaceDetector& detector, const cv::Mat& picture,
                      const FaceSearch& search) {
  std::vector<int> sizes = search.sizes;
  if (detector.fixed_size() > 0) sizes = {detector.fixed_size()};
  FacesFound found;
  for (const float padding : search.paddings) {
    for (const int size : sizes) {
      found.at = {size, padding, search.threshold};
      found.faces = detector.detect(picture, found.at);
      if (!found.faces.empty()) return found;
    }
  }
  return found;
}

}  // namespace attnpatch::vision::faces
