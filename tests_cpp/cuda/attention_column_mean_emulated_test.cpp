// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// The device code of attention with column means, run on the CPU.

#include <gtest/gtest.h>

#include <cmath>
#include <ostream>
#include <random>
#include <vector>

#include "kernels/cuda/attention_column_mean.cuh"

namespace attnpatch {
namespace {

struct Shape {
  const char* why;
  int64_t batch, heads, queries, keys, size;
  std::vector<int64_t> rows;
};

void PrintTo(const Shape& shape, std::ostream* out) { *out << shape.why; }

const Shape kShapes[] = {
    {"the middle of SD1.5 at 512 pixels", 2, 2, 64, 64, 160, {0}},
    {"the middle of SDXL, ragged", 2, 2, 133, 133, 64, {1, 0}},
    {"several blocks of keys, none recorded", 1, 1, 17, 200, 40, {}},
    {"one query, one key", 1, 1, 1, 1, 8, {0}},
    {"fewer keys than queries, an odd head size", 1, 2, 70, 9, 37, {0}},
    {"a row recorded twice", 2, 1, 9, 5, 16, {1, 0, 1}},
    {"more recorded rows than one launch takes", 2, 1, 3, 4, 8, std::vector<int64_t>(70, 1)},
};

// Tensors (batch, tokens, heads, size) in T, and the arguments that refer to them.
template <typename T>
struct Problem {
  Shape shape;
  std::vector<uint4> memory[4];
  std::vector<float> column_mean;
  std::vector<uint4> scratch;
  AttentionColumnMeanParams params;

  Problem(const Shape& s, ScalarKind kind) : shape(s) {
    std::mt19937 generator(3);
    std::normal_distribution<float> normal(0.0f, 1.3f);
    const int64_t tokens[4] = {s.queries, s.keys, s.keys, s.queries};
    AttentionView* views[4] = {&params.q, &params.k, &params.v, &params.out};
    const int64_t row = s.heads * s.size;
    for (int i = 0; i < 4; ++i) {
      const int64_t count = s.batch * tokens[i] * row;
      memory[i].resize(static_cast<size_t>(count) * sizeof(T) / 16 + 1);
      T* values = reinterpret_cast<T*>(memory[i].data());
      for (int64_t j = 0; j < count; ++j) values[j] = static_cast<T>(normal(generator));
      *views[i] = {values, tokens[i] * row, s.size, row, 1};
    }
    params.kind = kind;
    params.batch = s.batch;
    params.heads = s.heads;
    params.queries = s.queries;
    params.keys = s.keys;
    params.head_size = s.size;
    params.scale = 1.0f / std::sqrt(static_cast<float>(s.size));
    params.rows = shape.rows.data();
    params.recorded = static_cast<int64_t>(shape.rows.size());
    column_mean.assign(shape.rows.size() * s.keys, NAN);
    params.column_mean = column_mean.data();
    scratch.resize(device::column_mean_scratch(params) / 16 + 1, uint4{~0u, ~0u, ~0u, ~0u});
  }

  double at(const AttentionView& view, int64_t b, int64_t h, int64_t n, int64_t c) const {
    const T* values = static_cast<const T*>(view.data);
    return static_cast<float>(
        values[b * view.batch_stride + h * view.head_stride + n * view.token_stride + c]);
  }

  // Largest errors of the output and of the column means against the formula in double.
  std::pair<double, double> errors() const {
    std::vector<double> means(shape.batch * shape.keys, 0.0), p(shape.keys);
    double worst = 0.0, worst_mean = 0.0;
    for (int64_t b = 0; b < shape.batch; ++b) {
      for (int64_t h = 0; h < shape.heads; ++h) {
        for (int64_t n = 0; n < shape.queries; ++n) {
          double sum = 0.0;
          for (int64_t m = 0; m < shape.keys; ++m) {
            double score = 0.0;
            for (int64_t c = 0; c < shape.size; ++c) {
              score += at(params.q, b, h, n, c) * at(params.k, b, h, m, c);
            }
            sum += p[m] = std::exp(score * params.scale);
          }
          for (int64_t m = 0; m < shape.keys; ++m) {
            means[b * shape.keys + m] += p[m] / sum / static_cast<double>(shape.heads);
          }
          for (int64_t c = 0; c < shape.size; ++c) {
            double value = 0.0;
            for (int64_t m = 0; m < shape.keys; ++m) {
              value += p[m] / sum * at(params.v, b, h, m, c);
            }
            worst = std::max(worst, std::abs(value - at(params.out, b, h, n, c)));
          }
        }
      }
    }
    for (size_t r = 0; r < shape.rows.size(); ++r) {
      for (int64_t m = 0; m < shape.keys; ++m) {
        const double error =
            std::abs(column_mean[r * shape.keys + m] - means[shape.rows[r] * shape.keys + m]);
        worst_mean = std::isnan(error) ? INFINITY : std::max(worst_mean, error);
      }
    }
    return {worst, worst_mean};
  }
};

unsigned parts(int64_t count, int64_t each) {
  return static_cast<unsigned>((count + each - 1) / each);
}

template <typename T, typename Body>
void for_recorded(Problem<T>& problem, const Body& body) {
  const int64_t recorded = problem.params.recorded;
  for (int64_t first = 0; first < recorded; first += device::kMostRecorded) {
    const auto a = device::arguments_of(problem.params, problem.scratch.data(), first);
    body(a, static_cast<unsigned>(a.recorded));
  }
}

template <typename T>
void run(Problem<T>& problem) {
  const auto a = device::arguments_of(problem.params, problem.scratch.data());
  const auto heads = static_cast<unsigned>(a.heads), batch = static_cast<unsigned>(a.batch);
  if constexpr (std::is_same_v<T, float>) {
    const size_t shared = device::any_shared_bytes(a.head_size);
    device::launch({parts(a.queries, device::kAnyQueries), heads, batch}, device::kThreads, shared,
                   [&] { device::column_mean_attention_any<T>(a); });
    for_recorded(problem, [&](const device::ColumnMeanArguments& some, unsigned recorded) {
      device::launch({parts(a.keys, device::kAnyQueries), heads, recorded}, device::kThreads,
                     shared, [&] { device::column_sums_any<T>(some); });
    });
  } else {
    device::with_size(a.head_size, [&](auto size) {
      using Core = device::Flash<T, size()>;
      device::launch({parts(a.queries, device::kTileQueries), heads, batch}, device::kThreads,
                     Core::shared_bytes(),
                     [&] { device::column_mean_attention_half<T, size()>(a); });
      for_recorded(problem, [&](const device::ColumnMeanArguments& some, unsigned recorded) {
        device::launch({parts(a.keys, Core::kKeys), heads, recorded}, device::kThreads,
                       Core::column_bytes(), [&] { device::column_sums_half<T, size()>(some); });
      });
    });
  }
  for_recorded(problem, [&](const device::ColumnMeanArguments& some, unsigned recorded) {
    device::launch({parts(a.keys, device::kThreads), recorded, 1}, device::kThreads, 0,
                   [&] { device::mean_over_heads(some); });
  });
}

class ColumnMeanDevice : public testing::TestWithParam<Shape> {};

// A column mean is near 1; its probabilities are float32 whatever the inputs are.
TEST_P(ColumnMeanDevice, Float16EqualsTheFormula) {
  Problem<__half> problem(GetParam(), ScalarKind::kFloat16);
  run(problem);
  const auto [out, mean] = problem.errors();
  EXPECT_LT(out, 4e-3);
  EXPECT_LT(mean, 2e-5);
}

TEST_P(ColumnMeanDevice, BFloat16EqualsTheFormula) {
  Problem<__nv_bfloat16> problem(GetParam(), ScalarKind::kBFloat16);
  run(problem);
  const auto [out, mean] = problem.errors();
  EXPECT_LT(out, 3e-2);
  EXPECT_LT(mean, 2e-5);
}

TEST_P(ColumnMeanDevice, Float32EqualsTheFormula) {
  Problem<float> problem(GetParam(), ScalarKind::kFloat32);
  run(problem);
  const auto [out, mean] = problem.errors();
  EXPECT_LT(out, 4e-6);
  EXPECT_LT(mean, 2e-5);
}

INSTANTIATE_TEST_SUITE_P(Shapes, ColumnMeanDevice, testing::ValuesIn(kShapes));

}  // namespace
}  // namespace attnpatch
