// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "vision/clip_preprocess.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <ostream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace attnpatch::vision {
namespace {

using Pixels = std::vector<float>;

Pixels preprocess(const cv::Mat& picture, const ClipPreprocessOptions& options) {
  // NaN shows what was not written.
  Pixels out(static_cast<size_t>(3 * options.size * options.size),
             std::numeric_limits<float>::quiet_NaN());
  clip_preprocess(picture, options, out.data());
  return out;
}

cv::Mat random_picture(int height, int width) {
  cv::Mat picture(height, width, CV_8UC3);
  cv::RNG random(static_cast<uint64_t>(height) * 100003 + static_cast<uint64_t>(width));
  random.fill(picture, cv::RNG::UNIFORM, 0, 256);
  return picture;
}

std::string error_of(const cv::Mat& picture, const ClipPreprocessOptions& options) {
  try {
    preprocess(picture, options);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "none";
}

struct PictureCase {
  int height, width, size;
  const char* reason;
};

void PrintTo(const PictureCase& c, std::ostream* out) {
  *out << c.height << "x" << c.width << " to " << c.size << ": " << c.reason;
}

class ClipPreprocessTest : public testing::TestWithParam<PictureCase> {};

TEST_P(ClipPreprocessTest, OneColourStaysThatColour) {
  const auto [height, width, size, reason] = GetParam();
  const cv::Mat picture(height, width, CV_8UC3, cv::Scalar(255, 51, 0));
  const Pixels out = preprocess(picture, {size, Crop::kCenter, false});
  const size_t area = static_cast<size_t>(size) * size;
  for (size_t i = 0; i < area; ++i) {
    ASSERT_EQ(out[i], 1.0F) << i;
    ASSERT_FLOAT_EQ(out[area + i], 0.2F) << i;
    ASSERT_EQ(out[2 * area + i], 0.0F) << i;
  }
}

TEST_P(ClipPreprocessTest, PaddingIsBlackAroundTheWholePicture) {
  const int64_t height = GetParam().height, width = GetParam().width, size = GetParam().size;
  const cv::Mat picture(GetParam().height, GetParam().width, CV_8UC3, cv::Scalar(255, 255, 255));
  const Pixels out = preprocess(picture, {GetParam().size, Crop::kPad, false});
  const auto side = [&](int64_t own, int64_t other) {
    return own >= other ? size : std::max<int64_t>(size * own / other, 1);
  };
  const int64_t rows = side(height, width), columns = side(width, height);
  const int64_t top = (size - rows) / 2, left = (size - columns) / 2;
  for (int64_t y = 0; y < size; ++y) {
    for (int64_t x = 0; x < size; ++x) {
      const bool inside = y >= top && y < top + rows && x >= left && x < left + columns;
      ASSERT_EQ(out[static_cast<size_t>(y * size + x)], inside ? 1.0F : 0.0F) << y << ", " << x;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Sizes, ClipPreprocessTest,
    testing::Values(PictureCase{1, 1, 224, "one pixel"}, PictureCase{224, 224, 224, "no change"},
                    PictureCase{227, 331, 224, "primes"}, PictureCase{600, 61, 37, "tall"},
                    PictureCase{3, 3001, 28, "a strip"}, PictureCase{50, 40, 336, "up"},
                    PictureCase{31, 57, 1, "to one pixel"}));

// A row of levels 0, 10, 20 …, as tall as wide pictures need.
cv::Mat stripes(int count, bool upright) {
  cv::Mat line(1, count, CV_8UC3);
  for (int i = 0; i < count; ++i) line.at<cv::Vec3b>(0, i) = cv::Vec3b::all(10 * i);
  cv::Mat picture = cv::repeat(line, 4, 1);
  if (upright) picture = picture.t();
  return picture;
}

struct CropCase {
  Crop crop;
  bool upright;
  int first_level;  // of the four that remain of nine
};

void PrintTo(const CropCase& c, std::ostream* out) {
  *out << "crop " << static_cast<int>(c.crop) << (c.upright ? ", tall" : ", wide");
}

class ClipCropTest : public testing::TestWithParam<CropCase> {};

TEST_P(ClipCropTest, KeepsTheNamedSquare) {
  const auto [crop, upright, first_level] = GetParam();
  const Pixels out = preprocess(stripes(9, upright), {4, crop, false});
  for (int y = 0; y < 4; ++y) {
    for (int x = 0; x < 4; ++x) {
      EXPECT_FLOAT_EQ(out[y * 4 + x] * 255, 10.0F * (first_level + (upright ? y : x)));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Crops, ClipCropTest,
    testing::Values(CropCase{Crop::kCenter, false, 2}, CropCase{Crop::kCenter, true, 2},
                    CropCase{Crop::kLeft, false, 0}, CropCase{Crop::kRight, false, 5},
                    CropCase{Crop::kTop, true, 0}, CropCase{Crop::kBottom, true, 5},
                    CropCase{Crop::kTop, false, 2}, CropCase{Crop::kBottom, false, 2},
                    CropCase{Crop::kLeft, true, 2}, CropCase{Crop::kRight, true, 2}));

TEST(ClipPreprocess, NormalizesPerChannel) {
  const cv::Mat picture(3, 3, CV_8UC3, cv::Scalar(255, 255, 255));
  const Pixels out = preprocess(picture, {1, Crop::kCenter, true});
  EXPECT_FLOAT_EQ(out[0], (1 - 0.48145466F) / 0.26862954F);
  EXPECT_FLOAT_EQ(out[1], (1 - 0.4578275F) / 0.26130258F);
  EXPECT_FLOAT_EQ(out[2], (1 - 0.40821073F) / 0.27577711F);
}

TEST(ClipPreprocess, ReadsRowsThatLieApart) {
  const cv::Mat whole = random_picture(300, 400);
  const cv::Mat part = whole(cv::Rect(20, 10, 250, 240));
  ASSERT_FALSE(part.isContinuous());
  EXPECT_EQ(preprocess(part, {}), preprocess(part.clone(), {}));
}

TEST(ClipPreprocess, AVeryLongPictureCostsOnlyItsSquare) {
  cv::Mat picture(1, 10'000'000, CV_8UC3, cv::Scalar::all(0));
  picture.at<cv::Vec3b>(0, 5'000'000) = cv::Vec3b::all(255);
  const Pixels out = preprocess(picture, {224, Crop::kCenter, false});
  EXPECT_GT(out[223], 0.9F);  // the white pixel starts in the middle and fills half of the square
  EXPECT_EQ(out[0], 0.0F);
}

TEST(ClipPreprocess, ServesSeveralThreadsAtOnce) {
  const cv::Mat picture = random_picture(500, 300);
  const Pixels want = preprocess(picture, {});
  std::vector<Pixels> got(4);
  std::vector<std::thread> threads;
  threads.reserve(got.size());
  for (Pixels& out : got) threads.emplace_back([&] { out = preprocess(picture, {}); });
  for (std::thread& thread : threads) thread.join();
  for (const Pixels& out : got) EXPECT_EQ(out, want);
}

TEST(ClipPreprocess, NamesAWrongArgument) {
  const cv::Mat picture = random_picture(4, 4);
  EXPECT_EQ(error_of(picture, {0}), "size: expected 1 to 8192, got 0");
  EXPECT_EQ(error_of(picture, {8193}), "size: expected 1 to 8192, got 8193");
  EXPECT_EQ(error_of(cv::Mat(0, 4, CV_8UC3), {}), "images: expected at least one pixel, got none");
  for (const int type : {CV_8UC1, CV_32FC3}) {
    EXPECT_EQ(error_of(cv::Mat(4, 4, type, cv::Scalar::all(0)), {}),
              "images: expected three channels of uint8");
  }
}

TEST(ParseCrop, KnowsItsNames) {
  EXPECT_EQ(parse_crop("center"), Crop::kCenter);
  EXPECT_EQ(parse_crop("pad"), Crop::kPad);
  try {
    parse_crop("middle");
    FAIL() << "no error";
  } catch (const std::invalid_argument& error) {
    EXPECT_STREQ(error.what(),
                 "crop: expected 'center', 'top', 'bottom', 'left', 'right' or 'pad', got "
                 "'middle'");
  }
}

}  // namespace
}  // namespace attnpatch::vision
