// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "vision/faces/face_detector.h"

#include <gtest/gtest.h>

#include <limits>
#include <ostream>
#include <stdexcept>
#include <vector>

namespace attnpatch::vision::faces {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

Detection box(float left, float top, float right, float bottom, float score) {
  Detection made;
  made.box = {left, top, right, bottom};
  made.score = score;
  return made;
}

TEST(SuppressOverlaps, KeepsTheBestOfEachHeap) {
  const auto kept = suppress_overlaps({box(0, 0, 9, 9, 0.6F), box(100, 0, 109, 9, 0.7F),
                                       box(1, 0, 10, 9, 0.9F), box(0, 1, 9, 10, 0.8F)},
                                      0.4F);
  ASSERT_EQ(kept.size(), 2U);
  EXPECT_EQ(kept[0].score, 0.9F);
  EXPECT_EQ(kept[1].score, 0.7F);
}

TEST(SuppressOverlaps, CountsBothEdgesOfABox) {
  // Two boxes of 10 × 10 pixels with 4 columns in common: 40 / 160 = 0.25.
  const std::vector<Detection> two = {box(0, 0, 9, 9, 0.9F), box(6, 0, 15, 9, 0.8F)};
  EXPECT_EQ(suppress_overlaps(two, 0.25F).size(), 2U);
  EXPECT_EQ(suppress_overlaps(two, 0.24F).size(), 1U);
}

TEST(SuppressOverlaps, KeepsTheOrderOfEqualScores) {
  const auto kept = suppress_overlaps(
      {box(0, 0, 1, 1, 0.5F), box(50, 0, 51, 1, 0.5F), box(90, 0, 91, 1, 0.5F)}, 0.4F);
  ASSERT_EQ(kept.size(), 3U);
  EXPECT_EQ(kept[0].box[0], 0);
  EXPECT_EQ(kept[2].box[0], 90);
}

struct FitCase {
  cv::Size picture;
  float padding;
  cv::Rect place;
  const char* reason;
};

void PrintTo(const FitCase& fit, std::ostream* out) { *out << fit.reason; }

class FitPicture : public testing::TestWithParam<FitCase> {};

TEST_P(FitPicture, LiesWhereTheReferencePutsIt) {
  const auto& [picture, padding, place, reason] = GetParam();
  DetectOptions options;
  options.padding = padding;
  const Letterbox fit = fit_picture(picture, options);
  EXPECT_EQ(cv::Rect(fit.left, fit.top, fit.width, fit.height), place);
  EXPECT_EQ(place & cv::Rect(0, 0, options.size, options.size), place);
}

INSTANTIATE_TEST_SUITE_P(
    Pictures, FitPicture,
    testing::Values(FitCase{{640, 640}, 0, {0, 0, 640, 640}, "as it is"},
                    FitCase{{700, 500}, 0, {0, 0, 640, 457}, "wide: cut off, not rounded"},
                    FitCase{{311, 701}, 0, {0, 0, 283, 640}, "tall"},
                    FitCase{{10000, 1}, 0, {0, 0, 640, 1}, "never without pixels"},
                    FitCase{{1, 10000}, 0, {0, 0, 1, 640}, "never without pixels, tall"},
                    FitCase{{1, 1}, 0, {0, 0, 640, 640}, "one pixel"},
                    FitCase{{320, 320}, 0.5F, {160, 160, 320, 320}, "half of it on each side"},
                    FitCase{{640, 320}, 0.5F, {160, 160, 320, 160}, "by the longer side"}));

TEST(FitPicture, ChecksItsOptions) {
  const auto fit = [](int size, float padding, float threshold) {
    fit_picture({10, 10}, {size, padding, threshold});
  };
  EXPECT_NO_THROW(fit(32, 4, 1));
  for (const int size : {0, -640, 100, 2080})
    EXPECT_THROW(fit(size, 0, 0.5F), std::invalid_argument);
  for (const float padding : {-0.1F, 4.1F, kNan}) {
    EXPECT_THROW(fit(640, padding, 0.5F), std::invalid_argument);
  }
  for (const float threshold : {0.0F, 1.1F, kNan}) {
    EXPECT_THROW(fit(640, 0, threshold), std::invalid_argument);
  }
}

}  // namespace
}  // namespace attnpatch::vision::faces
