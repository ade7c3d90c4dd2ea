// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "vision/resample.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace attnpatch::vision {
namespace {

constexpr double kCubicA = -0.5;
constexpr double kCubicRadius = 2.0;
constexpr int kFractionBits = 22;
constexpr int kLowBits = 12;
constexpr int64_t kWidthMultiple = 8;

// Keys' cubic convolution kernel.
double cubic(double x) {
  x = std::abs(x);
  if (x < 1.0) return ((kCubicA + 2.0) * x - (kCubicA + 3.0)) * x * x + 1.0;
  if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * kCubicA;
  return 0.0;
}

}  // namespace

ResampleTable bicubic_table(int64_t source, int64_t target, int64_t begin, int64_t end) {
  const double ratio = static_cast<double>(source) / static_cast<double>(target);
  const double scale = std::max(ratio, 1.0);
  const double radius = kCubicRadius * scale;
  const auto lower = [&](int64_t i) {
    const double center = (static_cast<double>(i) + 0.5) * ratio;
    return std::max<int64_t>(static_cast<int64_t>(std::floor(center - radius + 0.5)), 0);
  };
  const auto upper = [&](int64_t i) {
    const double center = (static_cast<double>(i) + 0.5) * ratio;
    return std::min<int64_t>(static_cast<int64_t>(std::floor(center + radius + 0.5)), source);
  };

  ResampleTable table;
  table.source_begin = lower(begin);
  table.source_count = upper(end - 1) - table.source_begin;
  for (int64_t i = begin; i < end; ++i) table.width = std::max(table.width, upper(i) - lower(i));
  table.width = (table.width + kWidthMultiple - 1) / kWidthMultiple * kWidthMultiple;
  const auto outputs = static_cast<size_t>(end - begin);
  table.first.reserve(outputs);
  table.high.resize(outputs * static_cast<size_t>(table.width));
  table.low.resize(table.high.size());

  std::vector<double> weights;
  for (int64_t i = begin; i < end; ++i) {
    const double center = (static_cast<double>(i) + 0.5) * ratio;
    const int64_t first = lower(i);
    weights.resize(static_cast<size_t>(upper(i) - first));
    double total = 0.0;
    for (size_t j = 0; j < weights.size(); ++j) {
      const double position = static_cast<double>(first) + static_cast<double>(j);
      weights[j] = cubic((position - center + 0.5) * (1.0 / scale));
      total += weights[j];
    }
    const auto row = static_cast<size_t>((i - begin) * table.width);
    for (size_t j = 0; j < weights.size(); ++j) {
      const double weight = weights[j] / total * (1 << kFractionBits);
      const auto fixed = static_cast<int32_t>(std::lround(weight));
      const int32_t high = (fixed + (1 << (kLowBits - 1))) >> kLowBits;
      table.high[row + j] = static_cast<int16_t>(high);
      table.low[row + j] = static_cast<int16_t>(fixed - high * (1 << kLowBits));
    }
    table.first.push_back(first - table.source_begin);
  }
  return table;
}

}  // namespace attnpatch::vision
