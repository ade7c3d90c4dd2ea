// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "vision/faces/face_alignment.h"

#include <Eigen/Core>
#include <array>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace attnpatch::vision::faces {
namespace {

using Points = Eigen::Matrix<double, 2, kKeypoints>;

constexpr int kTemplateSize = 112, kWideSize = 128, kMaxCrop = 4096;

Points template_points(int size) {
  Points points;
  points << 38.2946, 73.5318, 56.0252, 41.5493, 70.7299,  //
      51.6963, 51.5014, 71.7366, 92.3655, 92.2041;
  // The reference keeps the template in single precision.
  points = points.cast<float>().cast<double>();
  const bool wide = size % kTemplateSize != 0;
  const double scale = static_cast<double>(size) / (wide ? kWideSize : kTemplateSize);
  points *= scale;
  if (wide) points.row(0).array() += 0.5 * (kWideSize - kTemplateSize) * scale;
  return points;
}

// The picture between its pixels, black beyond them. cv::warpAffine rounds places to 1/32 pixel in
// OpenCV 4 and not in OpenCV 5; this never does.
cv::Vec3b sample(const cv::Mat& picture, double x, double y) {
  if (!(x > -1 && y > -1 && x < picture.cols && y < picture.rows)) return {};
  const int left = static_cast<int>(std::floor(x)), top = static_cast<int>(std::floor(y));
  const std::array<double, 2> across = {left + 1 - x, x - left}, down = {top + 1 - y, y - top};
  cv::Vec3d sum;
  for (int j = 0; j < 2; ++j) {
    for (int i = 0; i < 2; ++i) {
      const int column = left + i, row = top + j;
      const bool inside = column >= 0 && row >= 0 && column < picture.cols && row < picture.rows;
      if (!inside) continue;
      const cv::Vec3d colour = picture.at<cv::Vec3b>(row, column);
      sum += across[i] * down[j] * colour;
    }
  }
  return {cv::saturate_cast<uint8_t>(sum[0]), cv::saturate_cast<uint8_t>(sum[1]),
          cv::saturate_cast<uint8_t>(sum[2])};
}

}  // namespace

cv::Matx23d face_transform(const Keypoints& keypoints, int size) {
  if (size < 1 || size > kMaxCrop || (size % kTemplateSize != 0 && size % kWideSize != 0)) {
    throw std::invalid_argument("size: expected a multiple of 112 or 128 up to 4096, got " +
                                std::to_string(size));
  }
  Points points;
  for (int i = 0; i < kKeypoints; ++i) points.col(i) << keypoints[i].x, keypoints[i].y;
  const Points to = template_points(size);
  const Eigen::Vector2d middle = points.rowwise().mean(), to_middle = to.rowwise().mean();
  const Points p = points.colwise() - middle, q = to.colwise() - to_middle;
  const double spread = p.squaredNorm();
  if (!points.allFinite() || !(spread > 0)) {
    throw std::invalid_argument("keypoints: expected finite points that are not all the same");
  }
  // In two dimensions the best rotation and scale are those of one complex number.
  const double real = p.cwiseProduct(q).sum() / spread;
  const double imaginary = (p.row(0).dot(q.row(1)) - p.row(1).dot(q.row(0))) / spread;
  Eigen::Matrix2d turn;
  turn << real, -imaginary, imaginary, real;
  const Eigen::Vector2d shift = to_middle - turn * middle;
  if (!turn.allFinite() || !shift.allFinite()) {
    throw std::invalid_argument("keypoints: too far apart to be aligned");
  }
  return {real, -imaginary, shift.x(), imaginary, real, shift.y()};
}

cv::Mat align_face(const cv::Mat& picture, const Keypoints& keypoints, int size) {
  if (picture.empty() || picture.type() != CV_8UC3) {
    throw std::invalid_argument("picture: expected RGB of 8 bits and at least one pixel");
  }
  const cv::Matx23d forth = face_transform(keypoints, size);
  const double square = forth(0, 0) * forth(0, 0) + forth(1, 0) * forth(1, 0);
  if (!(square > 0)) throw std::invalid_argument("keypoints: too far apart to be aligned");
  // Back from the crop to the picture: the inverse of a similarity.
  const double real = forth(0, 0) / square, imaginary = forth(1, 0) / square;
  cv::Mat crop(size, size, CV_8UC3);
  for (int y = 0; y < size; ++y) {
    auto* row = crop.ptr<cv::Vec3b>(y);
    for (int x = 0; x < size; ++x) {
      const double from_x = x - forth(0, 2), from_y = y - forth(1, 2);
      row[x] =
          sample(picture, real * from_x + imaginary * from_y, real * from_y - imaginary * from_x);
    }
  }
  return crop;
}

}  // namespace attnpatch::vision::faces
