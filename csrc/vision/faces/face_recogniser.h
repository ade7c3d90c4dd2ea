// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// ArcFace (Deng et al. 2019, arXiv 1801.07698) as insightface runs it: the aligned face as
// blob = (RGB - 127.5)/127.5 to an embedding, not normalised. Networks that begin with a
// subtraction and a product of their own get the pixels as they are.

#pragma once

#include <cstdint>
#include <opencv2/core.hpp>
#include <span>
#include <vector>

#include "vision/faces/face_detector.h"
#include "vision/faces/onnx_net.h"

namespace attnpatch::vision::faces {

class FaceRecogniser {
 public:
  // Throws std::invalid_argument unless the file takes squares that a face can be aligned to.
  explicit FaceRecogniser(std::span<const uint8_t> file);

  int size() const { return size_; }  // of the aligned face, in pixels

  // The embedding of the face with these keypoints. picture: RGB, CV_8UC3.
  std::vector<float> embed(const cv::Mat& picture, const Keypoints& keypoints) const;

 private:
  int size_;
  OnnxNet net_;
};

}  // namespace attnpatch::vision::faces
