// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "vision/resample.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <ostream>
#include <random>
#include <vector>

namespace attnpatch::vision {
namespace {

struct ResizeCase {
  int64_t source, target;
  const char* reason;
};

void PrintTo(const ResizeCase& c, std::ostream* out) {
  *out << c.source << " to " << c.target << ": " << c.reason;
}

std::vector<int16_t> resample(const ResampleTable& table, const std::vector<int16_t>& line) {
  std::vector<int16_t> part(static_cast<size_t>(table.padded_count()));
  std::copy_n(line.begin() + table.source_begin, table.source_count, part.begin());
  std::vector<int16_t> out;
  for (int64_t i = 0; i < table.outputs(); ++i) {
    out.push_back(static_cast<int16_t>(resample_at(table, part.data(), i)));
  }
  return out;
}

// The formula over all inputs, in double, without rounding or clamping.
std::vector<double> resample_in_double(const std::vector<int16_t>& line, int64_t target) {
  const auto cubic = [](double x) {
    x = std::abs(x);
    if (x < 1) return 1.5 * x * x * x - 2.5 * x * x + 1;
    return x < 2 ? -0.5 * x * x * x + 2.5 * x * x - 4 * x + 2 : 0.0;
  };
  const double ratio = static_cast<double>(line.size()) / static_cast<double>(target);
  const double scale = std::max(ratio, 1.0);
  std::vector<double> out;
  for (int64_t i = 0; i < target; ++i) {
    double sum = 0, total = 0;
    for (size_t j = 0; j < line.size(); ++j) {
      const double weight =
          cubic((static_cast<double>(j) + 0.5 - (static_cast<double>(i) + 0.5) * ratio) / scale);
      sum += weight * line[j];
      total += weight;
    }
    out.push_back(sum / total);
  }
  return out;
}

std::vector<int16_t> random_line(int64_t length) {
  std::mt19937 random(static_cast<unsigned>(length));
  std::vector<int16_t> line(static_cast<size_t>(length));
  for (int16_t& value : line) value = static_cast<int16_t>(random() % 256);
  return line;
}

class ResampleTest : public testing::TestWithParam<ResizeCase> {};

TEST_P(ResampleTest, IsTheFormulaRoundedToEightBits) {
  const auto [source, target, reason] = GetParam();
  const auto line = random_line(source);
  const auto got = resample(bicubic_table(source, target, 0, target), line);
  const auto want = resample_in_double(line, target);
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    // Half a level, and what rounding each weight to 22 bits adds for white inputs.
    const double bound = 0.5 + 0.5 * 255 * static_cast<double>(source) / (1 << 22);
    EXPECT_NEAR(got[i], std::clamp(want[i], 0.0, 255.0), bound) << "output " << i;
  }
}

TEST_P(ResampleTest, KeepsConstantsExactly) {
  const auto [source, target, reason] = GetParam();
  const auto table = bicubic_table(source, target, 0, target);
  for (const int16_t level : {0, 1, 128, 255}) {
    const std::vector<int16_t> line(static_cast<size_t>(source), level);
    for (const int16_t value : resample(table, line)) EXPECT_EQ(value, level);
  }
}

TEST_P(ResampleTest, AWindowIsASliceOfTheWhole) {
  const auto [source, target, reason] = GetParam();
  const auto line = random_line(source);
  const auto whole = resample(bicubic_table(source, target, 0, target), line);
  const int64_t begin = target / 3, end = std::max(begin + 1, target / 2);
  const auto window = resample(bicubic_table(source, target, begin, end), line);
  ASSERT_EQ(static_cast<int64_t>(window.size()), end - begin);
  EXPECT_TRUE(std::equal(window.begin(), window.end(), whole.begin() + begin));
}

INSTANTIATE_TEST_SUITE_P(
    Sizes, ResampleTest,
    testing::Values(ResizeCase{1, 224, "one pixel"}, ResizeCase{2, 224, "fewer than the taps"},
                    ResizeCase{223, 224, "a little up"}, ResizeCase{225, 224, "a little down"},
                    ResizeCase{224, 1, "down to one"}, ResizeCase{1024, 224, "usual"},
                    ResizeCase{1009, 337, "primes"}, ResizeCase{4099, 7, "many taps"},
                    ResizeCase{17, 1000, "far up"}));

TEST(ResampleTable, TheSameSizeChangesNothing) {
  const auto line = random_line(224);
  EXPECT_EQ(resample(bicubic_table(224, 224, 0, 224), line), line);
}

TEST(ResampleTable, AWindowReadsOnlyItsOwnInputs) {
  const int64_t source = 40'000'000;
  const auto table = bicubic_table(source, source * 224, source * 112, source * 112 + 224);
  EXPECT_LE(table.source_count, 8);
  EXPECT_NEAR(static_cast<double>(table.source_begin), static_cast<double>(source) / 2, 8);
}

}  // namespace
}  // namespace attnpatch::vision
