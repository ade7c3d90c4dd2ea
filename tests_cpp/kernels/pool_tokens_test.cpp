// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/pool_tokens.h"

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
  int64_t batch, channels;
  Tiling tiling;
  PoolStride stride;
  int64_t window_down, window_across;
  bool largest;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.why; }

const Case kCases[] = {
    {"SD1.5's first level", 2, 320, {16, 16, 16, 16, 0, 0}, {false, 3, 2}, 3, 2, false},
    {"the largest of windows that overlap", 1, 64, {9, 10, 9, 10, 0, 0}, {false, 2, 2}, 4, 3, true},
    {"windows smaller than the stride", 1, 17, {7, 8, 7, 8, 0, 0}, {false, 3, 3}, 2, 1, false},
    {"along the tokens", 2, 33, {5, 7, 5, 7, 0, 0}, {true, 1, 4}, 1, 6, false},
    {"along the tokens of ragged tiles", 1, 8, {11, 9, 4, 5, 1, 3}, {true, 1, 3}, 1, 3, true},
    {"ragged tiles", 2, 5, {13, 17, 5, 6, 3, 4}, {false, 2, 3}, 2, 3, false},
    {"a window larger than the grid", 1, 3, {3, 2, 3, 2, 0, 0}, {false, 5, 5}, 9, 9, false},
    {"one token", 1, 1, {1, 1, 1, 1, 0, 0}, {false, 1, 1}, 1, 1, true},
};

struct Problem {
  Case shape;
  int64_t tokens, pooled;
  std::vector<float> x;
  std::vector<float> blends{0.0f, 0.3f, 1.0f};
  std::vector<std::vector<float>> out;

  explicit Problem(const Case& c)
      : shape(c),
        tokens(c.tiling.height * c.tiling.width),
        pooled(pooled_starts(c.tiling, c.stride).back()),
        x(static_cast<size_t>(c.batch * tokens * c.channels)),
        out(3, std::vector<float>(static_cast<size_t>(c.batch * pooled * c.channels),
                                  std::numeric_limits<float>::quiet_NaN())) {
    std::mt19937 generator(3);
    std::normal_distribution<float> normal;
    for (float& value : x) value = normal(generator);
  }

  PoolTokensParams params() {
    PoolTokensParams p;
    p.batch = shape.batch;
    p.channels = shape.channels;
    p.x = x.data();
    p.batch_stride = tokens * shape.channels;
    p.token_stride = shape.channels;
    p.tiling = shape.tiling;
    p.stride = shape.stride;
    p.window_down = shape.window_down;
    p.window_across = shape.window_across;
    p.largest = shape.largest;
    p.blends = blends;
    for (auto& result : out) p.out.push_back(result.data());
    p.parallel_for = [](int64_t count, const std::function<void(int64_t, int64_t)>& body) {
      for (int64_t i = 0; i < count; i += 3) body(i, std::min(i + 3, count));
    };
    return p;
  }

  // The tokens of the window of a tile's pooled token.
  std::vector<int64_t> window(const Rectangle& tile, int64_t index) const {
    std::vector<int64_t> found;
    for (int64_t i = 0; i < tile.tokens(); ++i) {
      const int64_t y = i / tile.width, xx = i % tile.width;
      bool inside;
      if (shape.stride.along_tokens) {
        const int64_t first = index * shape.stride.across;
        inside = i >= first && i < first + shape.window_across;
      } else {
        const int64_t columns = (tile.width + shape.stride.across - 1) / shape.stride.across;
        const int64_t top = index / columns * shape.stride.down;
        const int64_t left = index % columns * shape.stride.across;
        inside = y >= top && y < top + shape.window_down && xx >= left &&
                 xx < left + shape.window_across;
      }
      if (inside) found.push_back((tile.top + y) * shape.tiling.width + tile.left + xx);
    }
    return found;
  }

  double largest_error() const {
    double worst = 0.0;
    int64_t row = 0;
    for (int64_t t = 0; t < shape.tiling.tiles(); ++t) {
      const Rectangle tile = shape.tiling.tile(t);
      for (int64_t i = 0; i < shape.stride.pooled(tile); ++i, ++row) {
        const std::vector<int64_t> inside = window(tile, i);
        for (int64_t b = 0; b < shape.batch; ++b) {
          for (int64_t c = 0; c < shape.channels; ++c) {
            worst = std::max(worst, error(inside, b, row, c));
          }
        }
      }
    }
    EXPECT_EQ(row, pooled);
    return worst;
  }

 private:
  double error(const std::vector<int64_t>& inside, int64_t b, int64_t row, int64_t c) const {
    const auto value = [&](int64_t token) {
      return double{x[(b * tokens + token) * shape.channels + c]};
    };
    double pool = shape.largest ? value(inside[0]) : 0.0;
    for (const int64_t token : inside) {
      pool = shape.largest ? std::max(pool, value(token))
                           : pool + value(token) / static_cast<double>(inside.size());
    }
    double worst = 0.0;
    for (size_t i = 0; i < blends.size(); ++i) {
      const double one = value(inside[0]);
      const double expected = one + double{blends[i]} * (pool - one);
      const double error = std::abs(out[i][(b * pooled + row) * shape.channels + c] - expected);
      worst = std::isnan(error) ? std::numeric_limits<double>::infinity() : std::max(worst, error);
    }
    return worst;
  }
};

class PoolTokens : public testing::TestWithParam<std::tuple<std::string, Case>> {
 protected:
  void SetUp() override { force_cpu_target(std::get<0>(GetParam())); }
  void TearDown() override { force_cpu_target(""); }
};

TEST_P(PoolTokens, EqualsTheFormula) {
  Problem problem(std::get<1>(GetParam()));
  pool_tokens_cpu(problem.params());
  EXPECT_LT(problem.largest_error(), 1e-6);
}

std::string name_of(const testing::TestParamInfo<std::tuple<std::string, Case>>& info) {
  return std::get<0>(info.param) + "_" + std::to_string(info.index);
}

INSTANTIATE_TEST_SUITE_P(Targets, PoolTokens,
                         testing::Combine(testing::ValuesIn(cpu_targets()),
                                          testing::ValuesIn(kCases)),
                         name_of);

TEST(PoolTokensThreads, ChangeNothingAndAreAskedForOnce) {
  const Case shape{"rows for all", 2, 320, {37, 41, 37, 41, 0, 0}, {false, 2, 2}, 3, 2, false};
  Problem alone(shape), together(shape);
  PoolTokensParams params = alone.params();
  pool_tokens_cpu(params);
  params = together.params();
  RealThreads threads;
  threads.serve(params, 5);
  pool_tokens_cpu(params);
  EXPECT_EQ(alone.out, together.out);
  EXPECT_EQ(threads.regions(), 1);
}

TEST(PoolTokensEdges, NoBlendsAreNoWork) {
  Problem problem(kCases[0]);
  problem.blends.clear();
  pool_tokens_cpu(problem.params());
  EXPECT_TRUE(std::isnan(problem.out[0][0]));
}

}  // namespace
}  // namespace attnpatch::kernels
