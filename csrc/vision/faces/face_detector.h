// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// SCRFD (Guo et al. 2021, arXiv 2105.04714) as insightface runs it. The picture is made to fit a
// square of `size` pixels, at the top left on black; the network looks at blob = (RGB - 127.5)/128.
// For each stride s of 8, 16, 32 and two anchors a cell, with the centre c = (column, row)·s:
//
//   box = (c - s·(left, top), c + s·(right, bottom))     keypoint_i = c + s·offset_i
//
// of which those of a score of at least `threshold` stay, best first, without the ones that overlap
// a better one by more than 0.4 (intersection over union, a side counted as difference + 1).

#pragma once

#include <array>
#include <cstdint>
#include <opencv2/core.hpp>
#include <span>
#include <vector>

#include "vision/faces/onnx_net.h"

namespace attnpatch::vision::faces {

constexpr int kKeypoints = 5;  // eyes, nose, mouth's corners; left ones as we see them
using Keypoints = std::array<cv::Point2f, kKeypoints>;

struct Detection {
  std::array<float, 4> box;  // left, top, right, bottom, in pixels of the picture
  float score = 0;
  Keypoints keypoints;
};

struct DetectOptions {
  int size = 640;     // of the square: a multiple of 32 from 32 to 2048
  float padding = 0;  // black around the picture, as a part of its longer side, 0 to 4
  float threshold = 0.5F;
};

// Where the picture lies in the square.
struct Letterbox {
  int width = 0, height = 0, left = 0, top = 0;  // of the resized picture, in the square
  float scale = 1;                               // pixels of the square for one of the picture
};

Letterbox fit_picture(cv::Size picture, const DetectOptions& options);

// Greedy non-maximum suppression; in order of their scores.
std::vector<Detection> suppress_overlaps(std::vector<Detection> found, float overlap);

class FaceDetector {
 public:
  // Throws std::invalid_argument unless the file is a detector with keypoints.
  explicit FaceDetector(std::span<const uint8_t> file);

  // picture: RGB, CV_8UC3, of at least one pixel. Throws std::invalid_argument for options out of
  // range, and where the network does not give what such a detector gives.
  std::vector<Detection> detect(const cv::Mat& picture, const DetectOptions& options) const;

  // The one size of square that it takes; 0: any.
  int fixed_size() const { return fixed_size_; }

 private:
  OnnxNet net_;
  int fixed_size_ = 0;
};

}  // namespace attnpatch::vision::faces
