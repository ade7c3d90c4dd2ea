// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/attention_column_mean.h"

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
#include <utility>
#include <vector>

#include "kernels/targets.h"
#include "real_threads.h"

namespace attnpatch::kernels {
namespace {

struct Case {
  const char* why;
  int64_t batch, heads, queries, keys, size;
  std::vector<int64_t> rows;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.why; }

const Case kCases[] = {
    {"SD1.5's middle block at 512 pixels", 2, 8, 64, 64, 160, {0}},
    {"SDXL's at 384 by 416, every row", 2, 3, 156, 156, 64, {0, 1}},
    {"one query, one key, one channel", 1, 1, 1, 1, 1, {0}},
    {"nothing recorded", 2, 2, 37, 41, 40, {}},
    {"rows in another order, one of them twice", 3, 2, 19, 23, 32, {2, 0, 2}},
    {"more keys than one block, a last panel of one", 1, 2, 21, 257, 8, {0}},
    {"more queries than one slice, ragged", 1, 1, 331, 13, 24, {0}},
    {"a head size that no vector divides", 2, 3, 29, 7, 37, {1}},
};

// The inputs of one case, as (batch, tokens, heads, size), and the kernel's view of them.
struct Problem {
  Case shape;
  std::vector<float> q, k, v, out, column_mean;
  RealThreads threads;

  explicit Problem(const Case& c, double scale = 1.0) : shape(c) {
    std::mt19937 generator(7);
    const auto values = [&](int64_t tokens, double deviation) {
      std::normal_distribution<double> normal(0.0, deviation);
      std::vector<float> result(static_cast<size_t>(c.batch * tokens * c.heads * c.size));
      for (float& value : result) value = static_cast<float>(normal(generator));
      return result;
    };
    q = values(c.queries, scale);
    k = values(c.keys, scale);
    v = values(c.keys, 1.0);
    out.assign(q.size(), std::numeric_limits<float>::quiet_NaN());
    column_mean.assign(c.rows.size() * static_cast<size_t>(c.keys),
                       std::numeric_limits<float>::quiet_NaN());
  }

  AttentionView view(const std::vector<float>& values, int64_t tokens) const {
    const int64_t row = shape.heads * shape.size;
    return {values.data(), tokens * row, shape.size, row, 1};
  }

  void run(int64_t thread_count = 2) {
    AttentionColumnMeanParams p;
    p.batch = shape.batch;
    p.heads = p.kv_heads = shape.heads;
    p.queries = shape.queries;
    p.keys = shape.keys;
    p.head_size = shape.size;
    p.scale = 1.0f / std::sqrt(static_cast<float>(shape.size));
    p.q = view(q, shape.queries);
    p.k = view(k, shape.keys);
    p.v = view(v, shape.keys);
    p.out = view(out, shape.queries);
    p.rows = shape.rows.data();
    p.recorded = static_cast<int64_t>(shape.rows.size());
    p.column_mean = column_mean.data();
    threads.serve(p, thread_count);
    attention_column_mean_cpu(p);
  }

  const float* token(const std::vector<float>& values, int64_t b, int64_t tokens, int64_t t,
                     int64_t h) const {
    return values.data() + ((b * tokens + t) * shape.heads + h) * shape.size;
  }

  // The map's row of one query, in double.
  std::vector<double> map_row(int64_t b, int64_t h, int64_t n) const {
    std::vector<double> row(static_cast<size_t>(shape.keys));
    const float* query = token(q, b, shape.queries, n, h);
    double sum = 0.0;
    for (int64_t m = 0; m < shape.keys; ++m) {
      const float* key = token(k, b, shape.keys, m, h);
      double score = 0.0;
      for (int64_t c = 0; c < shape.size; ++c) score += double{query[c]} * key[c];
      row[m] = std::exp(score / std::sqrt(static_cast<double>(shape.size)));
      sum += row[m];
    }
    for (double& value : row) value /= sum;
    return row;
  }
};

// Largest absolute error of out, and largest relative error of the column means.
std::pair<double, double> largest_errors(const Problem& problem) {
  const Case& c = problem.shape;
  double worst_out = 0.0, worst_column = 0.0;
  const auto note = [](double& worst, double error) {
    worst = std::isnan(error) ? std::numeric_limits<double>::infinity() : std::max(worst, error);
  };
  for (int64_t b = 0; b < c.batch; ++b) {
    std::vector<double> columns(static_cast<size_t>(c.keys), 0.0);
    for (int64_t h = 0; h < c.heads; ++h) {
      for (int64_t n = 0; n < c.queries; ++n) {
        const std::vector<double> row = problem.map_row(b, h, n);
        const float* out = problem.token(problem.out, b, c.queries, n, h);
        for (int64_t i = 0; i < c.size; ++i) {
          double expected = 0.0;
          for (int64_t m = 0; m < c.keys; ++m) {
            expected += row[m] * problem.token(problem.v, b, c.keys, m, h)[i];
          }
          note(worst_out, std::abs(out[i] - expected));
        }
        for (int64_t m = 0; m < c.keys; ++m) columns[m] += row[m] / static_cast<double>(c.heads);
      }
    }
    for (size_t r = 0; r < c.rows.size(); ++r) {
      if (c.rows[r] != b) continue;
      for (int64_t m = 0; m < c.keys; ++m) {
        const double found = problem.column_mean[r * static_cast<size_t>(c.keys) + m];
        note(worst_column, std::abs(found - columns[m]) / columns[m]);
      }
    }
  }
  return {worst_out, worst_column};
}

class AttentionColumnMean : public testing::TestWithParam<std::tuple<std::string, Case>> {
 protected:
  void SetUp() override { force_cpu_target(std::get<0>(GetParam())); }
  void TearDown() override { force_cpu_target(""); }
  const Case& shape() const { return std::get<1>(GetParam()); }
};

TEST_P(AttentionColumnMean, EqualsTheFormula) {
  Problem problem(shape());
  problem.run();
  const auto [out, column] = largest_errors(problem);
  EXPECT_LT(out, 3e-6);
  EXPECT_LT(column, 3e-6);
}

TEST_P(AttentionColumnMean, KeepsItsAccuracyForLargeScores) {
  Problem problem(shape(), 4.0);  // scores of around a hundred, whose last bits are 1e-5
  problem.run();
  const auto [out, column] = largest_errors(problem);
  EXPECT_LT(out, 3e-4);
  EXPECT_LT(column, 3e-4);
}

std::string name_of(const testing::TestParamInfo<std::tuple<std::string, Case>>& info) {
  return std::get<0>(info.param) + "_" + std::to_string(info.index);
}

INSTANTIATE_TEST_SUITE_P(Targets, AttentionColumnMean,
                         testing::Combine(testing::ValuesIn(cpu_targets()),
                                          testing::ValuesIn(kCases)),
                         name_of);

TEST(AttentionColumnMeanThreads, ChangeNothingAndAreAskedForOnce) {
  const Case shape{"lots and slices for all", 2, 3, 700, 301, 40, {1, 0}};
  Problem alone(shape), together(shape);
  alone.run(1);
  together.run(5);
  EXPECT_EQ(alone.out, together.out);
  EXPECT_EQ(alone.column_mean, together.column_mean);
  EXPECT_EQ(together.threads.regions(), 1);
}

TEST(AttentionColumnMeanEdges, KeysThatNobodyMayHaveDisturbNoOther) {
  // The lanes past the last query are no queries: nothing of theirs reaches a column.
  Problem problem({"a tile with lanes to spare", 1, 1, 3, 5, 4, {0}});
  for (float& value : problem.q) value = 1.0f;
  for (int64_t c = 0; c < 4; ++c) problem.k[c] = -std::numeric_limits<float>::infinity();
  problem.run();
  EXPECT_LT(problem.column_mean[0], 1e-30f);
  double sum = 0.0;
  for (const float value : problem.column_mean) sum += value;
  EXPECT_NEAR(sum, 3.0, 1e-5);
}

TEST(AttentionColumnMeanEdges, NaNInAQueryStaysInItsRowOfTheOutput) {
  Problem problem({"two queries", 1, 1, 2, 5, 8, {0}});
  problem.q[0] = std::numeric_limits<float>::quiet_NaN();
  problem.run();
  EXPECT_TRUE(std::isnan(problem.out[0]));
  EXPECT_FALSE(std::isnan(problem.out[8]));
  EXPECT_TRUE(std::isnan(problem.column_mean[0]));
}

TEST(AttentionColumnMeanEdges, NothingToDoIsNoError) {
  Problem queries({"no queries", 1, 1, 0, 5, 8, {0}});
  queries.run();
  for (const float value : queries.column_mean) EXPECT_EQ(value, 0.0f);
  Problem keys({"no keys", 1, 1, 3, 0, 8, {0}});
  keys.run();
  for (const float value : keys.out) EXPECT_EQ(value, 0.0f);
  Problem size({"no channels", 1, 1, 3, 4, 0, {0}});
  size.run();
  for (const float value : size.column_mean) EXPECT_FLOAT_EQ(value, 0.75f);
}

}  // namespace
}  // namespace attnpatch::kernels
