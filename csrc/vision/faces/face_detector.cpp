// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "vision/faces/face_detector.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <opencv2/imgproc.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace attnpatch::vision::faces {
namespace {

constexpr std::array<int, 3> kStrides = {8, 16, 32};
constexpr int kAnchors = 2;
constexpr float kMean = 127.5F, kDeviation = 128.0F;
constexpr float kMaxOverlap = 0.4F;
constexpr int kMaxSize = 2048;
constexpr float kMaxPadding = 4;

// The outputs of one stride: (rows of anchors, 1, 4 and 10).
struct Level {
  int stride = 0;
  cv::Mat scores, boxes, keypoints;
};

void check_options(const DetectOptions& options) {
  if (options.size < 32 || options.size > kMaxSize || options.size % 32 != 0) {
    throw std::invalid_argument("size: expected a multiple of 32 from 32 to 2048, got " +
                                std::to_string(options.size));
  }
  if (!(options.padding >= 0 && options.padding <= kMaxPadding)) {
    throw std::invalid_argument("padding: expected 0 to 4, got " + std::to_string(options.padding));
  }
  if (!(options.threshold > 0 && options.threshold <= 1)) {
    throw std::invalid_argument("threshold: expected more than 0 and at most 1, got " +
                                std::to_string(options.threshold));
  }
}

// As rows of `columns` values, with or without a dimension for the batch; empty where it is none.
cv::Mat as_rows(const cv::Mat& output, int rows, int columns) {
  if (output.type() != CV_32F || !output.isContinuous()) return {};
  const int last = output.size[output.dims - 1];
  const bool batched = output.dims == 3 && output.size[0] == 1 && output.size[1] == rows;
  if (last != columns || !(batched || (output.dims == 2 && output.size[0] == rows))) return {};
  return output.reshape(1, rows);
}

// Tells the outputs apart by their shapes: OpenCV does not keep their order.
std::vector<Level> sort_outputs(const std::vector<cv::Mat>& outputs, int size) {
  std::vector<Level> levels;
  for (const int stride : kStrides) {
    const int rows = kAnchors * (size / stride) * (size / stride);
    Level level{stride, {}, {}, {}};
    for (const cv::Mat& output : outputs) {
      if (const cv::Mat found = as_rows(output, rows, 1); !found.empty()) level.scores = found;
      if (const cv::Mat found = as_rows(output, rows, 4); !found.empty()) level.boxes = found;
      if (const cv::Mat found = as_rows(output, rows, 2 * kKeypoints); !found.empty()) {
        level.keypoints = found;
      }
    }
    if (level.scores.empty() || level.boxes.empty() || level.keypoints.empty()) {
      throw std::invalid_argument(
          "detector: expected scores, boxes and keypoints of two anchors at the strides 8, 16 and "
          "32 (SCRFD with keypoints: scrfd_10g_bnkps.onnx, det_10g.onnx)");
    }
    levels.push_back(level);
  }
  return levels;
}

bool is_finite(const Detection& detection) {
  const auto finite = [](float value) { return std::isfinite(value); };
  return std::all_of(detection.box.begin(), detection.box.end(), finite) &&
         std::all_of(detection.keypoints.begin(), detection.keypoints.end(),
                     [&](const cv::Point2f& p) { return finite(p.x) && finite(p.y); });
}

// Adds a level's anchors of at least the threshold, in pixels of the picture.
void decode(const Level& level, const Letterbox& fit, const DetectOptions& options,
            std::vector<Detection>& found) {
  const auto stride = static_cast<float>(level.stride);
  const int columns = options.size / level.stride;
  const auto in_x = [&](float x) { return (x - static_cast<float>(fit.left)) / fit.scale; };
  const auto in_y = [&](float y) { return (y - static_cast<float>(fit.top)) / fit.scale; };
  for (int row = 0; row < level.scores.rows; ++row) {
    const float score = level.scores.at<float>(row);
    if (!(score >= options.threshold) || !std::isfinite(score)) continue;
    const auto cell = std::div(row / kAnchors, columns);
    const float x = static_cast<float>(cell.rem) * stride;
    const float y = static_cast<float>(cell.quot) * stride;
    const auto* sides = level.boxes.ptr<float>(row);
    const auto* offsets = level.keypoints.ptr<float>(row);
    Detection detection;
    detection.score = score;
    detection.box = {in_x(x - sides[0] * stride), in_y(y - sides[1] * stride),
                     in_x(x + sides[2] * stride), in_y(y + sides[3] * stride)};
    for (int i = 0; i < kKeypoints; ++i) {
      detection.keypoints[i] = {in_x(x + offsets[2 * i] * stride),
                                in_y(y + offsets[2 * i + 1] * stride)};
    }
    if (is_finite(detection)) found.push_back(detection);
  }
}

float area(float left, float top, float right, float bottom) {
  return std::max(0.0F, right - left + 1) * std::max(0.0F, bottom - top + 1);
}

float area(const Detection& d) { return (d.box[2] - d.box[0] + 1) * (d.box[3] - d.box[1] + 1); }

}  // namespace

Letterbox fit_picture(cv::Size picture, const DetectOptions& options) {
  check_options(options);
  const double pad = std::round(options.padding * std::max(picture.width, picture.height));
  const double width = picture.width + 2 * pad, height = picture.height + 2 * pad;
  const double ratio = height / width;
  // The reference cuts off fractions of a pixel, and takes the heights' ratio for both sides.
  int fit_width = options.size, fit_height = options.size;
  if (ratio > 1) {
    fit_width = static_cast<int>(options.size / ratio);
  } else {
    fit_height = static_cast<int>(options.size * ratio);
  }
  fit_width = std::max(fit_width, 1);
  fit_height = std::max(fit_height, 1);
  const double scale = fit_height / height;
  Letterbox fit{fit_width, fit_height, 0, 0, static_cast<float>(scale)};
  if (pad > 0) {
    fit.left = fit.top = static_cast<int>(std::round(pad * scale));
    const auto side = [&](int length, int start) {
      const int wanted = static_cast<int>(std::round(length * scale));
      return std::clamp(wanted, 1, std::max(1, options.size - start));
    };
    fit.width = side(picture.width, fit.left);
    fit.height = side(picture.height, fit.top);
  }
  return fit;
}

std::vector<Detection> suppress_overlaps(std::vector<Detection> found, float overlap) {
  std::stable_sort(found.begin(), found.end(),
                   [](const Detection& a, const Detection& b) { return a.score > b.score; });
  std::vector<Detection> kept;
  for (const Detection& one : found) {
    const bool covered = std::any_of(kept.begin(), kept.end(), [&](const Detection& better) {
      const auto& [left, top, right, bottom] = better.box;
      const float common = area(std::max(left, one.box[0]), std::max(top, one.box[1]),
                                std::min(right, one.box[2]), std::min(bottom, one.box[3]));
      return common / (area(better) + area(one) - common) > overlap;
    });
    if (!covered) kept.push_back(one);
  }
  return kept;
}

FaceDetector::FaceDetector(std::span<const uint8_t> file) : net_("detector", file) {
  const auto& dims = net_.file().input_dims;
  if (net_.file().outputs.size() != 3 * kStrides.size()) {
    throw std::invalid_argument(
        "detector: expected nine outputs (SCRFD with keypoints: scrfd_10g_bnkps.onnx, "
        "det_10g.onnx), found " +
        std::to_string(net_.file().outputs.size()));
  }
  if (dims[2] > 0 || dims[3] > 0) {
    if (dims[2] != dims[3]) {
      throw std::invalid_argument("detector: its pictures are " + std::to_string(dims[3]) + " × " +
                                  std::to_string(dims[2]) + ", expected squares or any size");
    }
    DetectOptions options;
    options.size = dims[2] > kMaxSize ? 0 : static_cast<int>(dims[2]);
    check_options(options);
    fixed_size_ = options.size;
  }
}

std::vector<Detection> FaceDetector::detect(const cv::Mat& picture,
                                            const DetectOptions& options) const {
  if (picture.empty() || picture.type() != CV_8UC3) {
    throw std::invalid_argument("picture: expected RGB of 8 bits and at least one pixel");
  }
  const Letterbox fit = fit_picture(picture.size(), options);
  cv::Mat square = cv::Mat::zeros(options.size, options.size, CV_8UC3);
  cv::Mat place = square(cv::Rect(fit.left, fit.top, fit.width, fit.height));
  cv::resize(picture, place, place.size(), 0, 0, cv::INTER_LINEAR);
  const auto outputs = net_.run(make_blob(square, kMean, kDeviation));
  std::vector<Detection> found;
  for (const Level& level : sort_outputs(outputs, options.size)) {
    decode(level, fit, options, found);
  }
  return suppress_overlaps(std::move(found), kMaxOverlap);
}

}  // namespace attnpatch::vision::faces
