// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Biased attention problems, and the formula in double.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <ostream>
#include <random>
#include <vector>

#include "kernels/biased_attention.h"
#include "normal_values.h"

namespace attnpatch::kernels {

struct BiasedCase {
  const char* why;
  int64_t batch, heads, kv_heads, queries, keys, size, terms;
  bool one_query_bias, one_key_bias;  // for all of the batch
};

inline void PrintTo(const BiasedCase& c, std::ostream* out) { *out << c.why; }

inline const BiasedCase kBiasedCases[] = {
    {"a transformer's head, one term", 1, 1, 1, 140, 300, 128, 1, true, true},
    {"a sum of scores just longer than a block of it", 1, 1, 1, 20, 40, 80, 2, true, false},
    {"one of everything", 1, 1, 1, 1, 1, 1, 1, true, true},
    {"no terms", 2, 2, 2, 9, 17, 12, 0, true, true},
    {"no keys", 1, 2, 2, 5, 0, 8, 2, true, true},
    {"the most terms, grouped heads, primes", 2, 6, 2, 37, 131, 41, 16, false, false},
    {"one row of keys' factors, no vector divides the head", 3, 2, 1, 19, 23, 7, 3, false, true},
    {"more queries than one run", 1, 1, 1, 701, 5, 160, 4, true, true},
};

// The inputs of one case: tensors as (batch, tokens, heads, size), factors (rows, tokens, terms).
struct BiasedProblem {
  BiasedCase shape;
  std::vector<float> q, k, v, u, w, out;
  float scale;  // of the scores

  explicit BiasedProblem(const BiasedCase& c, double size = 1.0)
      : shape(c), scale(1.0f / std::sqrt(static_cast<float>(c.size))) {
    std::mt19937 generator(7);
    q = normal_values(c.batch * c.queries * c.heads * c.size, generator, size);
    k = normal_values(c.batch * c.keys * c.kv_heads * c.size, generator, size);
    v = normal_values(c.batch * c.keys * c.kv_heads * c.size, generator);
    u = normal_values((c.one_query_bias ? 1 : c.batch) * c.queries * c.terms, generator);
    w = normal_values((c.one_key_bias ? 1 : c.batch) * c.keys * c.terms, generator);
    out.assign(q.size(), -7.0f);
  }

  static AttentionView view(const std::vector<float>& values, int64_t tokens, int64_t heads,
                            int64_t size) {
    return {values.data(), tokens * heads * size, size, heads * size, 1};
  }

  BiasedAttentionParams params() const {
    const BiasedCase& c = shape;
    BiasedAttentionParams p;
    p.batch = c.batch;
    p.heads = c.heads;
    p.kv_heads = c.kv_heads;
    p.queries = c.queries;
    p.keys = c.keys;
    p.head_size = c.size;
    p.scale = scale;
    p.q = view(q, c.queries, c.heads, c.size);
    p.k = view(k, c.keys, c.kv_heads, c.size);
    p.v = view(v, c.keys, c.kv_heads, c.size);
    p.out = view(out, c.queries, c.heads, c.size);
    p.terms = c.terms;
    p.query_bias = {u.data(), c.one_query_bias ? 0 : c.queries * c.terms, c.terms, 1};
    p.key_bias = {w.data(), c.one_key_bias ? 0 : c.keys * c.terms, c.terms, 1};
    p.threads = 2;
    p.parallel_for = [](int64_t count, const std::function<void(int64_t, int64_t)>& body) {
      for (int64_t i = 0; i < count; i += 3) body(i, std::min(i + 3, count));
    };
    return p;
  }

  float& query_factor(int64_t n, int64_t r) { return u[n * shape.terms + r]; }
  float& key_factor(int64_t m, int64_t r) { return w[m * shape.terms + r]; }

  double score(int64_t b, int64_t h, int64_t n, int64_t m) const {
    const BiasedCase& c = shape;
    const float* query = &q[((b * c.queries + n) * c.heads + h) * c.size];
    const float* key = &k[((b * c.keys + m) * c.kv_heads + h / (c.heads / c.kv_heads)) * c.size];
    double sum = 0.0;
    for (int64_t i = 0; i < c.size; ++i) sum += double{query[i]} * key[i];
    sum *= scale;
    for (int64_t r = 0; r < c.terms; ++r) {
      const double of_query = u[((c.one_query_bias ? 0 : b * c.queries) + n) * c.terms + r];
      const double of_key = w[((c.one_key_bias ? 0 : b * c.keys) + m) * c.terms + r];
      if (of_query != 0.0 && of_key != 0.0) sum += of_query * of_key;
    }
    return sum;
  }

  // The largest difference of one query's result from the formula of the header, in double; where
  // that is NaN the result has to be.
  double error(int64_t b, int64_t h, int64_t n) const {
    const BiasedCase& c = shape;
    std::vector<double> scores;
    for (int64_t m = 0; m < c.keys; ++m) scores.push_back(score(b, h, n, m));
    double top = -std::numeric_limits<double>::infinity();
    for (const double s : scores) top = std::max(top, s);
    std::vector<double> numerator(static_cast<size_t>(c.size), 0.0);
    double sum = 0.0;
    for (int64_t m = 0; m < c.keys; ++m) {
      const double e = std::exp(scores[m] - top);
      const float* value =
          &v[((b * c.keys + m) * c.kv_heads + h / (c.heads / c.kv_heads)) * c.size];
      sum += e;
      for (int64_t i = 0; i < c.size; ++i) numerator[i] += e * value[i];
    }
    double worst = 0.0;
    for (int64_t i = 0; i < c.size; ++i) {
      const double expected = numerator[i] / sum;
      const double found = out[((b * c.queries + n) * c.heads + h) * c.size + i];
      if (std::isnan(expected) && std::isnan(found)) continue;
      const double error = std::abs(found - expected);
      worst = std::isnan(error) ? std::numeric_limits<double>::infinity() : std::max(worst, error);
    }
    return worst;
  }

  double largest_error() const {
    double worst = 0.0;
    for (int64_t b = 0; b < shape.batch; ++b) {
      for (int64_t h = 0; h < shape.heads; ++h) {
        for (int64_t n = 0; n < shape.queries; ++n) worst = std::max(worst, error(b, h, n));
      }
    }
    return worst;
  }
};

// Calls body(problem) for problems whose queries have every pair of a few factors, infinite ones
// among them, and whose first keys have one pair.
template <typename Body>
void for_all_infinities(const Body& body) {
  const float factors[] = {0.0f, 1.0f, -0.5f, INFINITY, -INFINITY, 1e-30f};
  BiasedProblem problem({"all pairs", 1, 1, 1, 36, 9, 8, 2, true, true});
  for (int64_t n = 0; n < 36; ++n) {
    problem.query_factor(n, 0) = factors[n % 6];
    problem.query_factor(n, 1) = factors[n / 6];
  }
  for (const float first : factors) {
    for (const float second : factors) {
      for (int64_t m = 0; m < 9; ++m) {
        problem.key_factor(m, 0) = m < 4 ? first : 0.5f;
        problem.key_factor(m, 1) = m < 2 ? second : 0.25f;
      }
      body(problem);
    }
  }
}

}  // namespace attnpatch::kernels
