// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Attention with column means by a CUDA kernel, and its formula in double.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <ostream>
#include <random>
#include <utility>
#include <vector>

#include "kernels/attention_column_mean.h"
#include "values.h"

namespace attnpatch::kernels {

struct ColumnMeanShape {
  const char* why;
  int64_t batch, heads, queries, keys, size;
  std::vector<int64_t> rows;
  float scale = NAN;  // 1 / sqrt(size)
  int64_t lost = 0;   // so many keys have scores of -inf
};

inline void PrintTo(const ColumnMeanShape& shape, std::ostream* out) { *out << shape.why; }

inline const ColumnMeanShape kColumnMeanShapes[] = {
    {"the middle of SD1.5 at 512 pixels", 2, 2, 64, 64, 160, {0}},
    {"the middle of SDXL, ragged", 2, 2, 133, 133, 64, {1, 0}},
    {"several blocks of keys, none recorded", 1, 1, 17, 200, 40, {}},
    {"one query, one key", 1, 1, 1, 1, 8, {0}},
    {"fewer keys than queries, an odd head size", 1, 2, 70, 9, 37, {0}},
    {"a row recorded twice", 2, 1, 9, 5, 16, {1, 0, 1}},
    {"whole blocks and a ragged one", 1, 1, 70, 269, 48, {0}},
    {"no scale", 1, 1, 20, 70, 40, {0}, 0.0f},
    {"a negative scale, whole blocks", 1, 2, 65, 128, 64, {0}, -0.4f},
    {"nothing counts in the first block", 1, 1, 33, 150, 32, {0}, NAN, 64},
    {"nothing counts in the first block, nor a key of the next", 1, 1, 16, 70, 128, {0}, 0.1f, 33},
    {"more recorded rows than one launch takes", 2, 1, 3, 4, 8, std::vector<int64_t>(70, 1)},
};

// Tensors (batch, tokens, heads, size) in T, and the arguments that refer to them.
template <typename T, typename Memory>
class ColumnMeanProblem {
 public:
  explicit ColumnMeanProblem(const ColumnMeanShape& shape)
      : s_(shape),
        generator_(3),
        q_(make(s_.queries, s_.lost > 0 ? s_.queries : 0, 1.0f)),
        k_(make(s_.keys, s_.lost, -INFINITY)),
        v_(make(s_.keys)),
        out_(make(s_.queries)),
        column_mean_(std::vector<float>(s_.rows.size() * static_cast<size_t>(s_.keys), NAN)) {
    params_.dtype = dtype_of<T>();
    params_.batch = s_.batch;
    params_.heads = params_.kv_heads = s_.heads;
    params_.queries = s_.queries;
    params_.keys = s_.keys;
    params_.head_size = s_.size;
    params_.scale = std::isnan(s_.scale) ? 1.0f / std::sqrt(static_cast<float>(s_.size)) : s_.scale;
    params_.q = view(q_, s_.queries);
    params_.k = view(k_, s_.keys);
    params_.v = view(v_, s_.keys);
    params_.out = view(out_, s_.queries);
    params_.rows = s_.rows.data();
    params_.recorded = static_cast<int64_t>(s_.rows.size());
    params_.column_mean = column_mean_.typed();
  }

  const AttentionColumnMeanParams& params() const { return params_; }

  // Largest errors of the output and of the column means against the formula.
  std::pair<double, double> errors() {
    const std::vector<float> found = out_.read(), found_means = column_mean_.read();
    std::vector<double> means(static_cast<size_t>(s_.batch * s_.keys), 0.0);
    double worst = 0.0, worst_mean = 0.0;
    const auto note = [](double& most, double error) {
      most = std::isnan(error) ? INFINITY : std::max(most, std::abs(error));
    };
    for (int64_t b = 0; b < s_.batch; ++b) {
      for (int64_t h = 0; h < s_.heads; ++h) {
        for (int64_t n = 0; n < s_.queries; ++n) {
          const std::vector<double> p = probabilities(b, h, n);
          for (int64_t m = 0; m < s_.keys; ++m) {
            means[b * s_.keys + m] += p[m] / static_cast<double>(s_.heads);
          }
          for (int64_t c = 0; c < s_.size; ++c) {
            double value = 0.0;
            for (int64_t m = 0; m < s_.keys; ++m) {
              value += p[m] * v_.floats()[place(s_.keys, b, h, m) + c];
            }
            note(worst, value - found[place(s_.queries, b, h, n) + c]);
          }
        }
      }
    }
    for (size_t r = 0; r < s_.rows.size(); ++r) {
      for (int64_t m = 0; m < s_.keys; ++m) {
        note(worst_mean, found_means[r * s_.keys + m] - means[s_.rows[r] * s_.keys + m]);
      }
    }
    return {worst, worst_mean};
  }

 private:
  // The first channel of the first tokens has a value of its own.
  Values<T, Memory> make(int64_t tokens, int64_t first = 0, float value = 0.0f) {
    std::normal_distribution<float> normal(0.0f, 1.2f);
    std::vector<float> values(static_cast<size_t>(s_.batch * tokens * s_.heads * s_.size));
    for (float& drawn : values) drawn = normal(generator_);
    for (int64_t b = 0; b < s_.batch; ++b) {
      for (int64_t token = 0; token < first; ++token) {
        for (int64_t h = 0; h < s_.heads; ++h) values[place(tokens, b, h, token)] = value;
      }
    }
    return Values<T, Memory>(std::move(values));
  }

  AttentionView view(Values<T, Memory>& values, int64_t tokens) const {
    const int64_t row = s_.heads * s_.size;
    return {values.typed(), tokens * row, s_.size, row, 1};
  }

  int64_t place(int64_t tokens, int64_t b, int64_t h, int64_t token) const {
    return ((b * tokens + token) * s_.heads + h) * s_.size;
  }

  std::vector<double> probabilities(int64_t b, int64_t h, int64_t n) {
    std::vector<double> p(static_cast<size_t>(s_.keys));
    const float* query = q_.floats() + place(s_.queries, b, h, n);
    double sum = 0.0;
    for (int64_t m = 0; m < s_.keys; ++m) {
      const float* key = k_.floats() + place(s_.keys, b, h, m);
      double score = 0.0;
      for (int64_t c = 0; c < s_.size; ++c) score += static_cast<double>(query[c]) * key[c];
      sum += p[m] = std::exp(score * params_.scale);
    }
    for (double& value : p) value /= sum;
    return p;
  }

  ColumnMeanShape s_;
  std::mt19937 generator_;
  Values<T, Memory> q_, k_, v_, out_;
  Values<float, Memory> column_mean_;
  AttentionColumnMeanParams params_;
};

// A column mean is near 1; its probabilities are float32 whatever the inputs are.
constexpr double kColumnMeanBound = 2e-5;

}  // namespace attnpatch::kernels
