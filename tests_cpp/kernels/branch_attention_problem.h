// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Inputs of branch attention, and its formula in double.

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

#include "kernels/branch_attention.h"
#include "normal_values.h"

namespace attnpatch::kernels {

struct Case {
  const char* why;
  int64_t batch, heads, queries, size, text;
  std::vector<int64_t> branches;  // tokens of each
  int64_t shared_softmax = 0;
  bool masks = false;
  int64_t group = 1;  // so many heads have their keys and values in common
};

inline void PrintTo(const Case& c, std::ostream* out) { *out << c.why; }

inline const Case kCases[] = {
    {"SD1.5's first level, a linear adapter", 2, 8, 64, 40, 77, {4}},
    {"SDXL, a plus adapter", 2, 10, 49, 64, 77, {16}},
    {"the largest head of SD1.5", 1, 2, 17, 160, 77, {16}},
    {"head size 128, many image tokens", 1, 1, 19, 128, 13, {257}},
    {"one query, one key", 1, 1, 1, 4, 1, {1}},
    {"nothing but text", 2, 2, 33, 40, 77, {}},
    {"no text at all", 2, 3, 23, 32, 0, {4, 5}},
    {"a head size that no vector divides", 2, 3, 29, 37, 7, {3}},
    {"keys that no panel of four divides, masks", 3, 2, 31, 80, 5, {1, 2, 3}, 0, true},
    {"one branch in the text's softmax", 2, 2, 40, 40, 77, {16}, 1},
    {"shared and separate softmaxes, masks", 2, 2, 41, 48, 9, {4, 7, 5}, 2, true},
    {"more queries than one block", 1, 1, 517, 8, 3, {2}, 0, true},
    {"more keys than shared memory holds", 1, 1, 70, 160, 77, {257, 100}},
    {"a long prompt, its last block almost whole", 1, 2, 70, 64, 231, {16}},
    {"a long prompt of which few keys are left", 1, 1, 33, 40, 85, {4, 20}},
    {"a long prompt in one softmax with others, masks", 2, 1, 70, 64, 154, {16, 100, 4}, 2, true},
    {"branches longer than a block, and a short one", 2, 1, 70, 80, 77, {97, 16, 170}, 0, true},
    {"a head size with few registers, long branches", 1, 1, 70, 128, 77, {97, 16}, 1},
    {"no text, branches in one softmax, masks", 1, 1, 40, 32, 0, {90, 7}, 2, true},
    {"a thousand image tokens, in one softmax and apart", 1, 1, 35, 40, 77, {1024, 300}, 1, true},
    // On CUDA as much shared memory as a launch gives unasked, but for the kernel's own.
    {"twelve pictures", 1, 1, 65, 32, 77, std::vector<int64_t>(12, 16)},
};

// Of the CPU alone.
inline const Case kGroupedCases[] = {
    {"heads in groups, masks", 2, 6, 37, 40, 9, {4, 5}, 1, true, 3},
    {"one head of keys for all", 2, 4, 21, 64, 77, {16}, 0, false, 4},
};

// Cases of which a mask takes the first branch away from some queries.
inline const Case kMaskedCases[] = {
    {"a branch of its own", 2, 2, 31, 40, 7, {5, 3}, 0, true},
    {"a branch in the text's softmax", 2, 2, 31, 40, 7, {5, 3}, 1, true},
    {"no text", 2, 1, 31, 32, 0, {5}, 0, true},
    {"head size that no vector divides, all branches in the text's softmax",
     2,
     2,
     29,
     37,
     6,
     {3, 9},
     2,
     true},
    // On CUDA such are gone through twice.
    {"more keys than a block", 2, 1, 70, 32, 77, {100}, 0, true},
    {"more keys of one softmax than a block", 2, 1, 70, 32, 77, {100}, 1, true},
};

// The inputs of one case, as (batch or rows, tokens, heads, size), and the kernel's view of them.
struct Problem {
  Case shape;
  std::vector<float> q, k, v, out;
  std::vector<std::vector<float>> branch_k, branch_v, masks;
  std::vector<std::vector<int64_t>> rows;
  std::vector<std::vector<float>> weights;

  explicit Problem(const Case& c, double scale = 1.0) : shape(c) {
    std::mt19937 generator(7);
    const int64_t row = c.heads / c.group * c.size;
    q = normal_values(c.batch * c.queries * c.heads * c.size, generator, scale);
    k = normal_values(c.batch * c.text * row, generator, scale);
    v = normal_values(c.batch * c.text * row, generator);
    out.assign(q.size(), std::numeric_limits<float>::quiet_NaN());
    std::uniform_real_distribution<float> uniform(0.0f, 1.5f);
    for (const int64_t tokens : c.branches) {
      branch_k.push_back(normal_values(3 * tokens * row, generator, scale));
      branch_v.push_back(normal_values(3 * tokens * row, generator));
      rows.emplace_back();
      weights.emplace_back();
      for (int64_t b = 0; b < c.batch; ++b) {
        rows.back().push_back(static_cast<int64_t>(generator() % 3));
        weights.back().push_back(uniform(generator));
      }
      masks.emplace_back();
      for (int64_t n = 0; n < c.batch * c.queries; ++n) masks.back().push_back(uniform(generator));
    }
  }

  // Takes branch 0 from the first half of each row's queries, and multiplies the keys or values of
  // one token that batch row 0 alone uses.
  void spoil_masked(std::vector<std::vector<float>>& keys_or_values, float factor) {
    for (int64_t n = 0; n < shape.batch * shape.queries; ++n) {
      if (n % shape.queries < shape.queries / 2) masks[0][n] = 0.0f;
    }
    for (int64_t b = 0; b < shape.batch; ++b) rows[0][b] = b > 0;
    const int64_t row = shape.heads / shape.group * shape.size, first = shape.branches[0] / 2 * row;
    for (int64_t i = first; i < first + row; ++i) keys_or_values[0][i] *= factor;
  }

  // Gives branch 0 shares below 0 for the first half of each row's queries.
  void turn_masks() {
    for (int64_t n = 0; n < shape.batch * shape.queries; ++n) {
      if (n % shape.queries < shape.queries / 2) masks[0][n] = -0.5f;
    }
  }

  AttentionView view(const std::vector<float>& values, int64_t tokens, int64_t group) const {
    const int64_t row = shape.heads / group * shape.size;
    return {values.data(), tokens * row, shape.size, row, 1};
  }

  BranchAttentionParams params() {
    BranchAttentionParams p;
    p.batch = shape.batch;
    p.heads = shape.heads;
    p.kv_heads = shape.heads / shape.group;
    p.queries = shape.queries;
    p.head_size = shape.size;
    p.keys = shape.text;
    p.scale = 1.0f / std::sqrt(static_cast<float>(shape.size));
    p.q = view(q, shape.queries, 1);
    p.k = view(k, shape.text, shape.group);
    p.v = view(v, shape.text, shape.group);
    p.out = view(out, shape.queries, 1);
    p.shared_softmax = shape.shared_softmax;
    for (size_t i = 0; i < branch_k.size(); ++i) {
      AttentionBranch branch{.k = view(branch_k[i], shape.branches[i], shape.group),
                             .v = view(branch_v[i], shape.branches[i], shape.group),
                             .row_count = 3,
                             .tokens = shape.branches[i],
                             .rows = rows[i].data(),
                             .weights = weights[i].data()};
      if (shape.masks) {
        branch.mask = masks[i].data();
        branch.mask_batch_stride = shape.queries;
      }
      p.branches.push_back(branch);
    }
    p.threads = 2;
    p.parallel_for = [](int64_t count, const std::function<void(int64_t, int64_t)>& body) {
      for (int64_t i = 0; i < count; i += 3) body(i, std::min(i + 3, count));
    };
    return p;
  }

  // The formula of the header for one query, in double.
  std::vector<double> expected(int64_t b, int64_t h, int64_t n) const {
    std::vector<double> result(static_cast<size_t>(shape.size), 0.0);
    std::vector<Term> group;
    if (shape.text > 0) group.push_back({&k, &v, b, shape.text, 1.0});
    for (size_t i = 0; i < branch_k.size(); ++i) {
      if (static_cast<int64_t>(i) == shape.shared_softmax) flush(group, 1.0, b, h, n, result);
      const double factor =
          rows[i][b] < 0
              ? 0.0
              : double{weights[i][b]} * (shape.masks ? masks[i][b * shape.queries + n] : 1.0f);
      const Term term{&branch_k[i], &branch_v[i], std::max<int64_t>(rows[i][b], 0),
                      shape.branches[i],
                      static_cast<int64_t>(i) < shape.shared_softmax ? factor : 1.0};
      group.push_back(term);
      if (static_cast<int64_t>(i) >= shape.shared_softmax) flush(group, factor, b, h, n, result);
    }
    flush(group, 1.0, b, h, n, result);
    return result;
  }

 private:
  struct Term {
    const std::vector<float>*k, *v;
    int64_t row, tokens;
    double share;
  };

  const float* token(const std::vector<float>& values, int64_t row, int64_t tokens, int64_t t,
                     int64_t h, int64_t group) const {
    const int64_t heads = shape.heads / group;
    return values.data() + ((row * tokens + t) * heads + h / group) * shape.size;
  }

  void flush(std::vector<Term>& group, double factor, int64_t b, int64_t h, int64_t n,
             std::vector<double>& result) const {
    const float* query = token(q, b, shape.queries, n, h, 1);
    std::vector<double> numerator(result.size(), 0.0);
    double sum = 0.0;
    for (const Term& term : group) {
      if (term.share == 0.0) continue;
      if (term.share < 0.0) sum = std::numeric_limits<double>::quiet_NaN();
      for (int64_t t = 0; t < term.tokens; ++t) {
        const float* key = token(*term.k, term.row, term.tokens, t, h, shape.group);
        double score = 0.0;
        for (int64_t c = 0; c < shape.size; ++c) score += double{query[c]} * key[c];
        const double e = term.share * std::exp(score / std::sqrt(static_cast<double>(shape.size)));
        sum += e;
        const float* value = token(*term.v, term.row, term.tokens, t, h, shape.group);
        for (size_t c = 0; c < result.size(); ++c) numerator[c] += e * value[c];
      }
    }
    if (!group.empty() && sum != 0.0 && factor != 0.0) {
      for (size_t c = 0; c < result.size(); ++c) result[c] += factor * numerator[c] / sum;
    }
    group.clear();
  }
};

inline double largest_error(const Problem& problem) {
  const Case& c = problem.shape;
  double worst = 0.0;
  for (int64_t b = 0; b < c.batch; ++b) {
    for (int64_t h = 0; h < c.heads; ++h) {
      for (int64_t n = 0; n < c.queries; ++n) {
        const std::vector<double> expected = problem.expected(b, h, n);
        const float* out = problem.out.data() + ((b * c.queries + n) * c.heads + h) * c.size;
        for (size_t i = 0; i < expected.size(); ++i) {
          if (std::isnan(out[i]) && std::isnan(expected[i])) continue;
          const double error = std::abs(out[i] - expected[i]);
          worst =
              std::isnan(error) ? std::numeric_limits<double>::infinity() : std::max(worst, error);
        }
      }
    }
  }
  return worst;
}

}  // namespace attnpatch::kernels
