// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "vision/clip_preprocess.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <opencv2/core/utility.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "vision/resample.h"

namespace attnpatch::vision {
namespace {

constexpr int kChannels = 3;
constexpr std::array<float, kChannels> kMean = {0.48145466F, 0.4578275F, 0.40821073F};
constexpr std::array<float, kChannels> kStd = {0.26862954F, 0.26130258F, 0.27577711F};

// What an axis becomes: resized to `length`, of which `count` pixels from `begin` on are kept and
// stand at `at` in the output.
struct AxisPlan {
  int64_t length = 0, begin = 0, count = 0, at = 0;
};

// The crops that keep the beginning and the end of an axis.
struct AxisCrops {
  Crop begin, end;
};

AxisPlan plan_axis(int64_t source, int64_t other, const ClipPreprocessOptions& options,
                   AxisCrops crops) {
  const int64_t size = options.size;
  // In the reference's order of operations: its rounding decides where the square lies.
  const auto resized =
      static_cast<int64_t>(static_cast<double>(size * source) / static_cast<double>(other));
  if (options.crop == Crop::kPad) {
    const int64_t length = source >= other ? size : std::max<int64_t>(resized, 1);
    return {length, 0, length, (size - length) / 2};
  }
  const int64_t length = source <= other ? size : resized;
  const int64_t slack = length - size;
  if (options.crop == crops.begin) return {length, 0, size, 0};
  if (options.crop == crops.end) return {length, slack, size, 0};
  return {length, slack / 2, size, 0};
}

// The output value of each 8-bit level.
using Levels = std::array<float, 256>;

Levels levels_of(int channel, bool normalize) {
  Levels levels;
  for (int i = 0; i < 256; ++i) {
    const auto value = static_cast<float>(i * (1.0 / 255.0));
    levels[i] = normalize ? (value - kMean[channel]) / kStd[channel] : value;
  }
  return levels;
}

// Takes the pixels of a row apart, to the lines `pitch` values apart.
void split_row(const uint8_t* row, int64_t count, int16_t* lines, int64_t pitch) {
  for (int64_t x = 0; x < count; ++x) {
    for (int c = 0; c < kChannels; ++c) lines[c * pitch + x] = row[x * kChannels + c];
  }
}

// Resizes along the rows; the result is transposed, so that the columns are lines in turn: planes
// (channel, output column, source row), the rows padded as the second pass wants them.
std::vector<int16_t> resize_rows(const cv::Mat& picture, const ResampleTable& first,
                                 const ResampleTable& second) {
  const int64_t columns = first.outputs();
  const int64_t pitch = second.padded_count();
  std::vector<int16_t> planes(static_cast<size_t>(kChannels * columns * pitch));
  cv::parallel_for_(cv::Range(0, picture.rows), [&](const cv::Range& range) {
    const int64_t line_pitch = first.padded_count();
    std::vector<int16_t> lines(static_cast<size_t>(kChannels * line_pitch));
    for (int y = range.start; y < range.end; ++y) {
      split_row(picture.ptr<uint8_t>(y), picture.cols, lines.data(), line_pitch);
      for (int c = 0; c < kChannels; ++c) {
        for (int64_t x = 0; x < columns; ++x) {
          planes[(c * columns + x) * pitch + y] =
              static_cast<int16_t>(resample_at(first, lines.data() + c * line_pitch, x));
        }
      }
    }
  });
  return planes;
}

// The plane of a channel, with the steps between outputs of the first and of the second pass.
struct OutputPlane {
  float* begin = nullptr;
  int64_t first_step = 0, second_step = 0;
};

void resize_columns(const int16_t* lines, int64_t count, const ResampleTable& table,
                    const Levels& levels, const OutputPlane& out) {
  for (int64_t i = 0; i < count; ++i) {
    const int16_t* line = lines + i * table.padded_count();
    for (int64_t j = 0; j < table.outputs(); ++j) {
      out.begin[i * out.first_step + j * out.second_step] = levels[resample_at(table, line, j)];
    }
  }
}

}  // namespace

Crop parse_crop(const std::string& name) {
  if (name == "center") return Crop::kCenter;
  if (name == "top") return Crop::kTop;
  if (name == "bottom") return Crop::kBottom;
  if (name == "left") return Crop::kLeft;
  if (name == "right") return Crop::kRight;
  if (name == "pad") return Crop::kPad;
  throw std::invalid_argument(
      "crop: expected 'center', 'top', 'bottom', 'left', 'right' or 'pad', got '" + name + "'");
}

void check_options(const ClipPreprocessOptions& options) {
  if (options.size < 1 || options.size > kMaxClipSize) {
    throw std::invalid_argument("size: expected 1 to " + std::to_string(kMaxClipSize) + ", got " +
                                std::to_string(options.size));
  }
}

void clip_preprocess(const cv::Mat& picture, const ClipPreprocessOptions& options, float* out) {
  check_options(options);
  if (picture.empty()) throw std::invalid_argument("images: expected at least one pixel, got none");
  if (picture.type() != CV_8UC3) {
    throw std::invalid_argument("images: expected three channels of uint8");
  }
  const int64_t height = picture.rows, width = picture.cols, size = options.size;
  const AxisPlan x = plan_axis(width, height, options, {Crop::kLeft, Crop::kRight});
  const AxisPlan y = plan_axis(height, width, options, {Crop::kTop, Crop::kBottom});
  const auto across = bicubic_table(width, x.length, x.begin, x.begin + x.count);
  const auto down = bicubic_table(height, y.length, y.begin, y.begin + y.count);
  cv::Mat part =
      picture(cv::Rect(static_cast<int>(across.source_begin), static_cast<int>(down.source_begin),
                       static_cast<int>(across.source_count), static_cast<int>(down.source_count)));

  // Pillow (from 13.0 on) begins with the columns where that is less work. The order shows, as
  // the values between the passes are cut to 8 bits.
  const bool columns_first = height > y.length && height - y.length > 2 * (width - x.length);
  if (columns_first) cv::transpose(part, part);
  const ResampleTable& first = columns_first ? down : across;
  const ResampleTable& second = columns_first ? across : down;
  const std::vector<int16_t> planes = resize_rows(part, first, second);
  const int64_t plane_size = first.outputs() * second.padded_count();
  cv::parallel_for_(cv::Range(0, kChannels), [&](const cv::Range& range) {
    for (int c = range.start; c < range.end; ++c) {
      const Levels levels = levels_of(c, options.normalize);
      float* plane = out + c * size * size;
      if (x.count < size || y.count < size) std::fill_n(plane, size * size, levels[0]);
      const OutputPlane to{plane + y.at * size + x.at, columns_first ? size : 1,
                           columns_first ? 1 : size};
      resize_columns(planes.data() + c * plane_size, first.outputs(), second, levels, to);
    }
  });
}

}  // namespace attnpatch::vision
