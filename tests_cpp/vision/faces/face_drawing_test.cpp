// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "vision/faces/face_drawing.h"

#include <gtest/gtest.h>

#include <limits>
#include <stdexcept>

namespace attnpatch::vision::faces {
namespace {

TEST(DrawKeypoints, HasDiscsOnTheirPointsAndLimbsBetween) {
  const Keypoints points = {{{40, 40}, {120, 40}, {80, 80}, {50, 120}, {110, 120}}};
  cv::Mat canvas(160, 160, CV_8UC3, cv::Scalar(9, 9, 9));
  draw_keypoints(points, canvas);
  EXPECT_EQ(canvas.at<cv::Vec3b>(40, 40), cv::Vec3b(255, 0, 0));
  EXPECT_EQ(canvas.at<cv::Vec3b>(40, 120), cv::Vec3b(0, 255, 0));
  EXPECT_EQ(canvas.at<cv::Vec3b>(80, 80), cv::Vec3b(0, 0, 255));
  EXPECT_EQ(canvas.at<cv::Vec3b>(120, 50), cv::Vec3b(255, 255, 0));
  EXPECT_EQ(canvas.at<cv::Vec3b>(120, 110), cv::Vec3b(255, 0, 255));
  EXPECT_EQ(canvas.at<cv::Vec3b>(60, 60), cv::Vec3b(153, 0, 0));
  EXPECT_EQ(canvas.at<cv::Vec3b>(5, 5), cv::Vec3b(0, 0, 0));
}

TEST(DrawKeypoints, TakesPointsAnywhereNear) {
  cv::Mat canvas(8, 8, CV_8UC3);
  Keypoints points;
  points.fill({4, 4});
  EXPECT_NO_THROW(draw_keypoints(points, canvas));
  points = {{{-1e6F, 1e6F}, {1e6F, 1e6F}, {-1e6F, -1e6F}, {0, 0}, {1e6F, -1e6F}}};
  EXPECT_NO_THROW(draw_keypoints(points, canvas));
  points[2].y = 2e6F;
  EXPECT_THROW(draw_keypoints(points, canvas), std::invalid_argument);
  points[2].y = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THROW(draw_keypoints(points, canvas), std::invalid_argument);
}

}  // namespace
}  // namespace attnpatch::vision::faces
