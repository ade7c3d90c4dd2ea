// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "vision/faces/face_drawing.h"

#include <array>
#include <cmath>
#include <cstdint>
#include <opencv2/imgproc.hpp>
#include <stdexcept>
#include <vector>

namespace attnpatch::vision::faces {
namespace {

constexpr int kNose = 2;
constexpr int kHalfWidth = 4, kRadius = 10;
constexpr double kDim = 0.6;
constexpr double kFar = 1e6;
constexpr std::array<std::array<int, 3>, kKeypoints> kColors = {
    {{255, 0, 0}, {0, 255, 0}, {0, 0, 255}, {255, 255, 0}, {255, 0, 255}}};

cv::Scalar color(int keypoint) {
  const auto& [red, green, blue] = kColors[keypoint];
  return {static_cast<double>(red), static_cast<double>(green), static_cast<double>(blue)};
}

cv::Point whole(const cv::Point2d& point) {
  return {static_cast<int>(point.x), static_cast<int>(point.y)};
}

}  // namespace

void draw_keypoints(const Keypoints& keypoints, cv::Mat& canvas) {
  for (const cv::Point2f& point : keypoints) {
    if (!(std::abs(point.x) <= kFar && std::abs(point.y) <= kFar)) {
      throw std::invalid_argument("keypoints: expected finite points within 1000000 pixels");
    }
  }
  canvas.setTo(cv::Scalar());
  const cv::Point2d nose = keypoints[kNose];
  for (const int end : {0, 1, 3, 4}) {
    const cv::Point2d outer = keypoints[end], along = outer - nose;
    const double degrees = std::atan2(along.y, along.x) * 180 / CV_PI;
    std::vector<cv::Point> outline;
    cv::ellipse2Poly(whole((outer + nose) / 2), {static_cast<int>(cv::norm(along) / 2), kHalfWidth},
                     static_cast<int>(degrees), 0, 360, 1, outline);
    cv::fillConvexPoly(canvas, outline, color(end));
  }
  canvas.forEach<cv::Vec3b>([](cv::Vec3b& pixel, const int*) {
    for (int c = 0; c < 3; ++c) pixel[c] = static_cast<uint8_t>(pixel[c] * kDim);
  });
  for (int i = 0; i < kKeypoints; ++i) {
    cv::circle(canvas, whole(keypoints[i]), kRadius, color(i), cv::FILLED);
  }
}

}  // namespace attnpatch::vision::faces
