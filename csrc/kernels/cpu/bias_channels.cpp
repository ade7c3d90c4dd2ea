// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/cpu/bias_channels.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace attnpatch::kernels {
namespace {

constexpr float kLog2OfE = 1.44269504f;
constexpr float kGate = 0x1p100f;  // its square is infinite

float sign(float x) { return static_cast<float>(x > 0.0f) - static_cast<float>(x < 0.0f); }

// Factors of queries or of keys, all rows that there are.
struct Factors {
  const BiasView* view;
  int64_t rows, tokens, terms;

  Factors(const BiasView& of, const BiasedAttentionParams& p, int64_t token_count)
      : view(&of), rows(of.batch_stride == 0 ? 1 : p.batch), tokens(token_count), terms(p.terms) {}

  // Those of a token, `row` being one of the batch.
  template <typename Body>
  void for_each(int64_t row, int64_t token, const Body& body) const {
    const float* factors = view->data + row * view->batch_stride + token * view->token_stride;
    for (int64_t r = 0; r < terms; ++r) body(r, factors[r * view->term_stride]);
  }
};

// What signs a term's factors have in one row, and which of them are infinite.
struct Signs {
  bool above = false, below = false, plus_infinity = false, minus_infinity = false;

  bool infinite() const { return plus_infinity || minus_infinity; }

  // Whether some product with a factor is plus infinity.
  bool gives_plus_infinity(float x) const {
    const bool infinite = std::isinf(x);
    if (x > 0.0f) return plus_infinity || (infinite && above);
    return x < 0.0f && (minus_infinity || (infinite && below));
  }
};

// Of every row, term by term.
std::vector<std::vector<Signs>> signs_of(const Factors& factors) {
  std::vector<std::vector<Signs>> signs(static_cast<size_t>(factors.rows));
  for (int64_t row = 0; row < factors.rows; ++row) {
    signs[row].resize(static_cast<size_t>(factors.terms));
    for (int64_t token = 0; token < factors.tokens; ++token) {
      factors.for_each(row, token, [&](int64_t r, float x) {
        Signs& term = signs[row][r];
        term.above |= x > 0.0f;
        term.below |= x < 0.0f;
        term.plus_infinity |= std::isinf(x) && x > 0.0f;
        term.minus_infinity |= std::isinf(x) && x < 0.0f;
      });
    }
  }
  return signs;
}

// Numbers channels from `count` on for the gates of those terms that have an infinite factor in any
// row, and counts them; -1 for the others.
std::vector<int64_t> number_gates(const std::vector<std::vector<Signs>>& signs, int64_t terms,
                                  int64_t& count) {
  std::vector<int64_t> channels(static_cast<size_t>(terms), -1);
  for (int64_t r = 0; r < terms; ++r) {
    const auto infinite = [r](const std::vector<Signs>& row) { return row[r].infinite(); };
    if (std::any_of(signs.begin(), signs.end(), infinite)) channels[r] = count++;
  }
  return channels;
}

// For each term the channel of its gates, or -1: for infinities of the factors themselves, and for
// those that they are multiplied by.
struct Gates {
  std::vector<int64_t> own, other;
};

void write_channels(const Factors& factors, int64_t row, float scale, const Gates& gates,
                    int64_t width, float* to) {
  for (int64_t token = 0; token < factors.tokens; ++token, to += width) {
    factors.for_each(row, token, [&](int64_t r, float x) {
      const bool infinite = std::isinf(x);
      to[r] = infinite ? 0.0f : x * scale;
      if (infinite) to[gates.own[r]] = sign(x) * kGate;
      if (gates.other[r] >= 0) to[gates.other[r]] = sign(x) * kGate;
    });
  }
}

}  // namespace

BiasChannels::BiasChannels(const BiasedAttentionParams& p) {
  const Factors queries(p.query_bias, p, p.queries), keys(p.key_bias, p, p.keys);
  const std::vector<std::vector<Signs>> of_keys = signs_of(keys);
  count = p.terms;
  const std::vector<int64_t> query_gates = number_gates(signs_of(queries), p.terms, count);
  const std::vector<int64_t> key_gates = number_gates(of_keys, p.terms, count);
  width = (count + 3) / 4 * 4;

  // Which queries meet plus infinity depends on the row of the keys.
  const int64_t rows = count > p.terms ? std::max(queries.rows, keys.rows) : queries.rows;
  query_batch_stride_ = rows == 1 ? 0 : p.queries;
  key_batch_stride_ = keys.rows == 1 ? 0 : p.keys;
  of_queries_.assign(static_cast<size_t>(rows * p.queries * width), 0.0f);
  of_keys_.assign(static_cast<size_t>(keys.rows * p.keys * width), 0.0f);
  for (int64_t b = 0; b < keys.rows; ++b) {
    float* to = of_keys_.data() + b * p.keys * width;
    write_channels(keys, b, 1.0f, {key_gates, query_gates}, width, to);
  }
  for (int64_t b = 0; b < rows; ++b) {
    float* to = of_queries_.data() + b * p.queries * width;
    write_channels(queries, b, kLog2OfE, {query_gates, key_gates}, width, to);
    // A sum of both infinities has to be no number, but is not: a fused multiply-add of gates
    // leaves an infinity that stands there as it is.
    const std::vector<Signs>& signs = of_keys[keys.rows == 1 ? 0 : b];
    for (int64_t token = 0; token < p.queries; ++token, to += width) {
      queries.for_each(b, token, [&](int64_t r, float x) {
        if (signs[r].gives_plus_infinity(x)) to[r] = std::numeric_limits<float>::quiet_NaN();
      });
    }
  }
}

}  // namespace attnpatch::kernels
