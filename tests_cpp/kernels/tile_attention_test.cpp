// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/tile_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <numeric>
#include <ostream>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "bfloat16_tensors.h"
#include "kernels/targets.h"
#include "normal_values.h"
#include "real_threads.h"

namespace attnpatch::kernels {
namespace {

struct Case {
  const char* why;
  int64_t batch, heads, size;
  Tiling tiling;
  PoolStride stride;
  bool on_grid;  // each tile's own keys are the grid's; else they lie tile after tile
  int64_t shared;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.why; }

const Case kCases[] = {
    {"SD1.5's first level, tiles that fit", 1, 2, 40, {32, 32, 16, 16, 0, 0}, {}, true, 33},
    {"SDXL, pooled keys", 1, 2, 64, {24, 24, 12, 12, 0, 0}, {false, 3, 2}, false, 36},
    {"the largest head of SD1.5", 1, 1, 160, {9, 7, 5, 4, 2, 1}, {}, true, 5},
    {"one token, one tile, nothing shared", 1, 1, 4, {1, 1, 1, 1, 0, 0}, {}, true, 0},
    {"a tile larger than the grid", 2, 1, 8, {3, 5, 10, 11, 6, 2}, {}, true, 3},
    {"ragged on all sides, a head size that no vector divides",
     2,
     3,
     37,
     {13, 17, 5, 6, 3, 4},
     {},
     true,
     7},
    {"pooled along the tokens, ragged tiles",
     2,
     2,
     20,
     {11, 9, 4, 5, 1, 3},
     {true, 1, 3},
     false,
     2},
    {"tiles of one token", 1, 2, 16, {4, 3, 1, 1, 0, 0}, {}, true, 6},
    {"more keys than one block, no panel of four divides them",
     1,
     1,
     12,
     {17, 16, 17, 16, 0, 0},
     {},
     true,
     130},
    {"more queries than one run", 1, 1, 160, {40, 33, 40, 33, 0, 0}, {true, 1, 50}, false, 1},
};

// The inputs of one case, as (batch, tokens, heads, size), and the kernel's view of them.
struct Problem {
  Case shape;
  int64_t tokens, own;
  std::vector<float> q, k, v, shared_k, shared_v, out;

  explicit Problem(const Case& c, double scale = 1.0)
      : shape(c),
        tokens(c.tiling.height * c.tiling.width),
        own(c.on_grid ? tokens : pooled_starts(c.tiling, c.stride).back()) {
    std::mt19937 generator(7);
    const int64_t row = c.batch * c.heads * c.size;
    q = normal_values(tokens * row, generator, scale);
    k = normal_values(own * row, generator, scale);
    v = normal_values(own * row, generator, 1.0);
    shared_k = normal_values(c.shared * row, generator, scale);
    shared_v = normal_values(c.shared * row, generator, 1.0);
    out.assign(q.size(), std::numeric_limits<float>::quiet_NaN());
  }

  AttentionView view(const std::vector<float>& values, int64_t count) const {
    const int64_t row = shape.heads * shape.size;
    return {values.data(), count * row, shape.size, row, 1};
  }

  TileAttentionParams params() const {
    TileAttentionParams p;
    p.batch = shape.batch;
    p.heads = p.kv_heads = shape.heads;
    p.head_size = shape.size;
    p.scale = 1.0f / std::sqrt(static_cast<float>(shape.size));
    p.tiling = shape.tiling;
    if (!shape.on_grid) p.starts = pooled_starts(shape.tiling, shape.stride);
    p.shared_tokens = shape.shared;
    p.q = view(q, tokens);
    p.k = view(k, own);
    p.v = view(v, own);
    p.shared_k = view(shared_k, shape.shared);
    p.shared_v = view(shared_v, shape.shared);
    p.out = view(out, tokens);
    p.threads = 2;
    p.parallel_for = [](int64_t count, const std::function<void(int64_t, int64_t)>& body) {
      for (int64_t i = 0; i < count; i += 3) body(i, std::min(i + 3, count));
    };
    return p;
  }

  const float* row(const std::vector<float>& values, int64_t b, int64_t count, int64_t token,
                   int64_t h) const {
    return values.data() + ((b * count + token) * shape.heads + h) * shape.size;
  }

  // The largest difference of one query's output from the formula of the header, in double.
  double error(int64_t b, int64_t h, int64_t query, const std::vector<int64_t>& own_keys) const {
    std::vector<double> numerator(static_cast<size_t>(shape.size), 0.0);
    double sum = 0.0;
    const auto add = [&](const float* key, const float* value) {
      const float* of_query = row(q, b, tokens, query, h);
      double score = 0.0;
      for (int64_t c = 0; c < shape.size; ++c) score += double{of_query[c]} * key[c];
      const double e = std::exp(score / std::sqrt(static_cast<double>(shape.size)));
      sum += e;
      for (size_t c = 0; c < numerator.size(); ++c) numerator[c] += e * value[c];
    };
    for (const int64_t i : own_keys) add(row(k, b, own, i, h), row(v, b, own, i, h));
    for (int64_t i = 0; i < shape.shared; ++i) {
      add(row(shared_k, b, shape.shared, i, h), row(shared_v, b, shape.shared, i, h));
    }
    double worst = 0.0;
    for (size_t c = 0; c < numerator.size(); ++c) {
      const double error = std::abs(row(out, b, tokens, query, h)[c] - numerator[c] / sum);
      worst = std::isnan(error) ? std::numeric_limits<double>::infinity() : std::max(worst, error);
    }
    return worst;
  }

  double largest_error() const {
    const std::vector<int64_t> starts = pooled_starts(shape.tiling, shape.stride);
    double worst = 0.0;
    for (int64_t t = 0; t < shape.tiling.tiles(); ++t) {
      const Rectangle tile = shape.tiling.tile(t);
      std::vector<int64_t> queries;
      for (int64_t i = 0; i < tile.tokens(); ++i) {
        queries.push_back((tile.top + i / tile.width) * shape.tiling.width + tile.left +
                          i % tile.width);
      }
      std::vector<int64_t> keys = queries;
      if (!shape.on_grid) {
        keys.resize(static_cast<size_t>(starts[t + 1] - starts[t]));
        std::iota(keys.begin(), keys.end(), starts[t]);
      }
      for (int64_t b = 0; b < shape.batch; ++b) {
        for (int64_t h = 0; h < shape.heads; ++h) {
          for (const int64_t query : queries) worst = std::max(worst, error(b, h, query, keys));
        }
      }
    }
    return worst;
  }
};

class TileAttention : public testing::TestWithParam<std::tuple<std::string, Case>> {
 protected:
  void SetUp() override { force_cpu_target(std::get<0>(GetParam())); }
  void TearDown() override { force_cpu_target(""); }
  const Case& shape() const { return std::get<1>(GetParam()); }
};

TEST_P(TileAttention, EqualsTheFormula) {
  const Problem problem(shape());
  tile_attention_cpu(problem.params());
  EXPECT_LT(problem.largest_error(), 3e-6);
}

// Results of up to about four are rounded to steps of 2^-6, and so may their weights be before.
TEST_P(TileAttention, InBFloat16EqualsTheFormula) {
  for (const double scale : {1.0, 4.0}) {
    Problem problem(shape(), scale);
    TileAttentionParams p = problem.params();
    BFloat16Tensors tensors;
    tensors.round_all(problem, p);
    tensors.round(problem.shared_k, p.shared_k);
    tensors.round(problem.shared_v, p.shared_v);
    tile_attention_cpu(p);
    BFloat16Tensors::read(p.out, problem.out);
    EXPECT_LT(problem.largest_error(), 1.6e-2);
  }
}

TEST_P(TileAttention, KeepsItsAccuracyForLargeScores) {
  const Problem problem(shape(), 4.0);  // scores of around a hundred
  tile_attention_cpu(problem.params());
  EXPECT_LT(problem.largest_error(), 3e-4);
}

std::string name_of(const testing::TestParamInfo<std::tuple<std::string, Case>>& info) {
  return std::get<0>(info.param) + "_" + std::to_string(info.index);
}

INSTANTIATE_TEST_SUITE_P(Targets, TileAttention,
                         testing::Combine(testing::ValuesIn(cpu_targets()),
                                          testing::ValuesIn(kCases)),
                         name_of);

TEST(TileAttentionThreads, ChangeNothingAndAreAskedForOnce) {
  const Case shape{"tiles for all", 2, 2, 40, {40, 40, 13, 11, 0, 0}, {}, true, 30};
  const Problem alone(shape), together(shape);
  TileAttentionParams params = alone.params();
  params.threads = 1;
  tile_attention_cpu(params);
  params = together.params();
  RealThreads threads;
  threads.serve(params, 5);
  tile_attention_cpu(params);
  EXPECT_EQ(alone.out, together.out);
  EXPECT_EQ(threads.regions(), 1);
}

TEST(TileAttentionEdges, NaNInAQueryStaysInItsRow) {
  Problem problem({"two queries", 1, 1, 8, {1, 2, 1, 2, 0, 0}, {}, true, 3});
  problem.q[0] = std::numeric_limits<float>::quiet_NaN();
  tile_attention_cpu(problem.params());
  EXPECT_TRUE(std::isnan(problem.out[0]));
  EXPECT_FALSE(std::isnan(problem.out[8]));
}

TEST(TileAttentionEdges, AScoreOfMinusInfinityIsNoKeyAndOfPlusInfinityNaN) {
  Problem problem({"one tile", 1, 1, 8, {1, 2, 1, 2, 0, 0}, {}, true, 1});
  problem.k[0] = std::numeric_limits<float>::infinity();
  problem.q[0] = -1.0f;
  problem.q[8] = 1.0f;
  tile_attention_cpu(problem.params());
  EXPECT_LT(problem.error(0, 0, 0, {1}), 3e-6);
  EXPECT_TRUE(std::isnan(problem.out[8]));
}

}  // namespace
}  // namespace attnpatch::kernels
