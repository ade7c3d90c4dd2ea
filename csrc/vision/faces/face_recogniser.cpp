// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "vision/faces/face_recogniser.h"

#include <cmath>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "vision/faces/face_alignment.h"

namespace attnpatch::vision::faces {
namespace {

constexpr int kUsualSize = 112;
constexpr int64_t kMaxSize = 1024;
constexpr float kMean = 127.5F, kDeviation = 127.5F;

int find_size(std::span<const uint8_t> file) {
  OnnxFile known;
  try {
    known = read_onnx(file);
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument(std::string("recogniser: ") + error.what());
  }
  const auto& dims = known.input_dims;
  const bool square = dims.size() == 4 && dims[2] == dims[3] && dims[2] <= kMaxSize;
  const int size = square ? (dims[2] < 0 ? kUsualSize : static_cast<int>(dims[2])) : 0;
  if (size < 1 || (size % 112 != 0 && size % 128 != 0) || known.outputs.size() != 1) {
    throw std::invalid_argument(
        "recogniser: expected pictures of 112 × 112 in and one embedding out (ArcFace: "
        "glintr100.onnx, w600k_r50.onnx)");
  }
  return size;
}

}  // namespace

FaceRecogniser::FaceRecogniser(std::span<const uint8_t> file)
    : size_(find_size(file)), net_("recogniser", file, {size_, size_}) {}

std::vector<float> FaceRecogniser::embed(const cv::Mat& picture, const Keypoints& keypoints) const {
  const cv::Mat face = align_face(picture, keypoints, size_);
  const bool as_is = net_.file().prepares_input;
  const auto outputs = net_.run(make_blob(face, as_is ? 0 : kMean, as_is ? 1 : kDeviation));
  if (outputs.size() != 1 || outputs[0].type() != CV_32F || outputs[0].empty()) {
    throw std::invalid_argument("recogniser: expected one embedding out");
  }
  const auto* begin = outputs[0].ptr<float>();
  std::vector<float> embedding(begin, begin + outputs[0].total());
  for (const float value : embedding) {
    if (!std::isfinite(value)) {
      throw std::invalid_argument("recogniser: its embedding is not finite");
    }
  }
  return embedding;
}

}  // namespace attnpatch::vision::faces
