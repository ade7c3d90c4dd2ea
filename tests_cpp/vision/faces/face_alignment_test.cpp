// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "vision/faces/face_alignment.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>

namespace attnpatch::vision::faces {
namespace {

Keypoints template_points() {
  return {{{38.2946F, 51.6963F},
           {73.5318F, 51.5014F},
           {56.0252F, 71.7366F},
           {41.5493F, 92.3655F},
           {70.7299F, 92.2041F}}};
}

cv::Mat ramp(int height, int width) {
  cv::Mat picture(height, width, CV_8UC3);
  picture.forEach<cv::Vec3b>([](cv::Vec3b& pixel, const int* at) {
    pixel = cv::Vec3b(static_cast<uint8_t>(at[0] * 2), static_cast<uint8_t>(at[1] * 2), 77);
  });
  return picture;
}

TEST(FaceTransform, FindsTheSimilarityThatMadeThePoints) {
  for (const double angle : {0.0, 0.3, -2.0, 3.1}) {
    for (const double scale : {0.05, 1.0, 7.5}) {
      Keypoints moved = template_points();
      const double c = scale * std::cos(angle), s = scale * std::sin(angle);
      for (cv::Point2f& p : moved) {
        const double x = p.x, y = p.y;
        p = {static_cast<float>(c * x - s * y + 31), static_cast<float>(s * x + c * y - 12)};
      }
      const cv::Matx23d back = face_transform(moved, 112);
      for (int i = 0; i < kKeypoints; ++i) {
        const cv::Vec2d found = back * cv::Vec3d(moved[i].x, moved[i].y, 1);
        EXPECT_NEAR(found[0], template_points()[i].x, 1e-3);
        EXPECT_NEAR(found[1], template_points()[i].y, 1e-3);
      }
    }
  }
}

TEST(FaceTransform, NeverMirrors) {
  Keypoints mirrored = template_points();
  for (cv::Point2f& p : mirrored) p.x = 112 - p.x;
  const cv::Matx23d m = face_transform(mirrored, 112);
  EXPECT_GT(m(0, 0) * m(1, 1) - m(0, 1) * m(1, 0), 0);
}

TEST(FaceTransform, RefusesWhatHasNone) {
  Keypoints points = template_points();
  EXPECT_THROW(face_transform(points, 100), std::invalid_argument);
  EXPECT_THROW(face_transform(points, 0), std::invalid_argument);
  EXPECT_THROW(face_transform(points, 112 * 1000), std::invalid_argument);
  points.fill({5, 5});
  EXPECT_THROW(face_transform(points, 112), std::invalid_argument);
  points[0].x = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THROW(face_transform(points, 112), std::invalid_argument);
}

TEST(AlignFace, KeepsAFaceThatIsInPlace) {
  const cv::Mat picture = ramp(112, 112);
  const cv::Mat crop = align_face(picture, template_points(), 112);
  EXPECT_EQ(cv::norm(crop, picture, cv::NORM_INF), 0);
}

TEST(AlignFace, IsBlackBeyondThePicture) {
  Keypoints far = template_points();
  for (cv::Point2f& p : far) p += cv::Point2f(1e6F, -1e6F);
  EXPECT_EQ(cv::norm(align_face(ramp(50, 40), far, 112), cv::NORM_INF), 0);
}

TEST(AlignFace, TakesPicturesOfAnySize) {
  for (const cv::Size size : {cv::Size(1, 1), cv::Size(3, 70000), cv::Size(70000, 2)}) {
    const cv::Mat crop = align_face(ramp(size.height, size.width), template_points(), 128);
    EXPECT_EQ(crop.size(), cv::Size(128, 128));
  }
  EXPECT_THROW(align_face(cv::Mat(), template_points(), 112), std::invalid_argument);
}

}  // namespace
}  // namespace attnpatch::vision::faces
