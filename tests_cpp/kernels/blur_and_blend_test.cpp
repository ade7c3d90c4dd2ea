// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/blur_and_blend.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <ostream>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/targets.h"
#include "real_threads.h"

namespace attnpatch::kernels {
namespace {

struct Case {
  const char* why;
  int64_t batch, channels, height, width, rows, columns;
  double sigma = 2.0;
  int64_t radius = 4;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.why; }

const Case kCases[] = {
    {"SD1.5's latent at 512 pixels", 2, 4, 64, 64, 8, 8},
    {"SDXL's at 672 by 416", 1, 4, 84, 52, 21, 13},
    {"one pixel", 1, 1, 1, 1, 1, 1},
    {"sides shorter than the kernel", 1, 2, 3, 2, 2, 1},
    {"sides of the radius and one more", 1, 1, 4, 5, 1, 1},
    {"a grid that divides nothing, ragged sides", 1, 1, 37, 29, 5, 7},
    {"a grid finer than the picture", 1, 1, 6, 9, 13, 20},
    {"more rows than one block", 1, 1, 150, 7, 150, 7},
    {"no blur", 1, 1, 9, 9, 3, 3, 0.0},
    {"a sigma whose square is zero", 1, 1, 9, 9, 3, 3, 1e-200},
    {"a narrow kernel", 1, 1, 20, 20, 4, 4, 0.4, 1},
    {"a mean over the kernel", 1, 1, 20, 20, 4, 4, std::numeric_limits<double>::infinity()},
    {"a kernel wider than the picture", 1, 1, 11, 8, 4, 4, 9.0, 31},
};

int64_t bounce(int64_t i, int64_t size) {
  while (size > 1 && (i < 0 || i >= size)) i = i < 0 ? -i : 2 * (size - 1) - i;
  return size == 1 ? 0 : i;
}

struct Problem {
  Case shape;
  std::vector<float> in, saliency, out;
  RealThreads threads;

  explicit Problem(const Case& c) : shape(c) {
    std::mt19937 generator(3);
    std::normal_distribution<float> normal;
    std::uniform_real_distribution<float> uniform(0.0f, 2.0f);
    in.resize(static_cast<size_t>(c.batch * c.channels * c.height * c.width));
    for (float& value : in) value = normal(generator);
    saliency.resize(static_cast<size_t>(c.batch * c.rows * c.columns));
    for (float& value : saliency) value = uniform(generator);
    out.assign(in.size(), std::numeric_limits<float>::quiet_NaN());
  }

  void run(int64_t thread_count = 2) {
    BlurAndBlendParams p;
    p.batch = shape.batch;
    p.channels = shape.channels;
    p.height = shape.height;
    p.width = shape.width;
    p.in = in.data();
    p.batch_stride = shape.channels * shape.height * shape.width;
    p.channel_stride = shape.height * shape.width;
    p.row_stride = shape.width;
    p.out = out.data();
    p.saliency = saliency.data();
    p.rows = shape.rows;
    p.columns = shape.columns;
    p.taps = gaussian_taps(shape.sigma, shape.radius);
    threads.serve(p, thread_count);
    blur_and_blend_cpu(p);
  }

  bool masked(int64_t b, int64_t y, int64_t x) const {
    const auto coarse = [](int64_t i, int64_t size, int64_t count) {
      const float scale = static_cast<float>(count) / static_cast<float>(size);
      return std::min(static_cast<int64_t>(static_cast<float>(i) * scale), count - 1);
    };
    const int64_t row = coarse(y, shape.height, shape.rows);
    const int64_t column = coarse(x, shape.width, shape.columns);
    return saliency[(b * shape.rows + row) * shape.columns + column] > 1.0f;
  }

  // The formula of the header, in double.
  double expected(int64_t b, int64_t plane, int64_t y, int64_t x) const {
    const float* from = in.data() + plane * shape.height * shape.width;
    if (!masked(b, y, x) || shape.sigma == 0.0) return from[y * shape.width + x];
    double sum = 0.0, weights = 0.0;
    for (int64_t i = -shape.radius; i <= shape.radius; ++i) {
      for (int64_t j = -shape.radius; j <= shape.radius; ++j) {
        const double dy = static_cast<double>(i) / shape.sigma;
        const double dx = static_cast<double>(j) / shape.sigma;
        const double weight = std::exp(-0.5 * dy * dy) * std::exp(-0.5 * dx * dx);
        sum +=
            weight * from[bounce(y + i, shape.height) * shape.width + bounce(x + j, shape.width)];
        weights += weight;
      }
    }
    return sum / weights;
  }
};

class BlurAndBlend : public testing::TestWithParam<std::tuple<std::string, Case>> {
 protected:
  void SetUp() override { force_cpu_target(std::get<0>(GetParam())); }
  void TearDown() override { force_cpu_target(""); }
};

TEST_P(BlurAndBlend, EqualsTheFormula) {
  const Case& c = std::get<1>(GetParam());
  Problem problem(c);
  problem.run();
  size_t i = 0;
  for (int64_t plane = 0; plane < c.batch * c.channels; ++plane) {
    for (int64_t y = 0; y < c.height; ++y) {
      for (int64_t x = 0; x < c.width; ++x, ++i) {
        const double expected = problem.expected(plane / c.channels, plane, y, x);
        if (problem.masked(plane / c.channels, y, x)) {
          ASSERT_NEAR(problem.out[i], expected, 1e-6) << plane << ", " << y << ", " << x;
        } else {
          ASSERT_EQ(problem.out[i], problem.in[i]) << plane << ", " << y << ", " << x;
        }
      }
    }
  }
}

std::string name_of(const testing::TestParamInfo<std::tuple<std::string, Case>>& info) {
  return std::get<0>(info.param) + "_" + std::to_string(info.index);
}

INSTANTIATE_TEST_SUITE_P(Targets, BlurAndBlend,
                         testing::Combine(testing::ValuesIn(cpu_targets()),
                                          testing::ValuesIn(kCases)),
                         name_of);

TEST(BlurAndBlendThreads, ChangeNothingAndAreAskedForOnce) {
  const Case shape{"rows for all", 2, 4, 300, 200, 38, 25, 2.0, 9};
  Problem alone(shape), together(shape);
  alone.run(1);
  together.run(5);
  EXPECT_EQ(alone.out, together.out);
  EXPECT_EQ(together.threads.regions(), 1);
}

TEST(GaussianTaps, AddUpToOneForEverySigma) {
  for (const double sigma : {5e-324, 1e-3, 0.3, 2.0, 1e300}) {
    const std::vector<float> taps = gaussian_taps(sigma, 4);
    double sum = taps[0];
    for (size_t i = 1; i < taps.size(); ++i) sum += 2.0 * taps[i];
    EXPECT_NEAR(sum, 1.0, 1e-6) << sigma;
  }
}

}  // namespace
}  // namespace attnpatch::kernels
