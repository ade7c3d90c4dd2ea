// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Scores [key][V vectors of queries] of long rows of keys, and the weights that they become. The
// queries carry the factor log2(e), so that the exponentials are powers of two. Included once per
// instruction set.

#if defined(ATTNPATCH_SCORES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNPATCH_SCORES_INL_H_
#undef ATTNPATCH_SCORES_INL_H_
#else
#define ATTNPATCH_SCORES_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>
#include <limits>
#include <type_traits>

#include "kernels/cpu/products-inl.h"
#include "kernels/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnpatch::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr float kLog2E = 1.44269504f;
constexpr int64_t kBlockKeys = 128;

// How many keys a block has, a multiple of a panel's: all of a row's blocks have the same length,
// but for the last.
constexpr int64_t block_length(int64_t keys, int64_t panel = 4) {
  const int64_t blocks = HWY_MAX((keys + kBlockKeys - 1) / kBlockKeys, 1);
  return round_up((keys + blocks - 1) / blocks, panel);
}

// The running maximum before any key: below all scores but minus infinity, whose keys are none.
constexpr float kNoKey = std::numeric_limits<float>::lowest();

// What a score is a sum over: lanes of products, and fp32 numbers behind them. A bias is such
// numbers, or lanes like the others where those are fp32.
struct ScoreLanes {
  int64_t products, floats;
  bool biased;

  template <typename Products>
  static ScoreLanes of(int64_t size, int64_t bias = 0) {
    const int64_t lanes = lanes_of<Products>(size);
    if (Products::kTerms == 1) return {lanes + bias, 0, bias > 0};
    return {lanes, bias, bias > 0};
  }
  int64_t all() const { return products + floats; }
};

// Scores of four keys, and their maxima with what stands in top. Sums longer than Depth are made of
// several: that is more exact, and slower. `factor` is of pairs' products alone.
template <int V, int64_t Depth, typename Products = FloatProducts>
HWY_INLINE void score_panel(const float* panel, const float* queries, const ScoreLanes& lanes,
                            float factor, float* scores, FloatVec* top) {
  const FloatTag d;
  constexpr int64_t width = V * kLanes;
  const FloatVec times = hn::Set(d, factor);
  FloatVec before[V];
  for (int v = 0; v < V; ++v) before[v] = top[v];
  int64_t i = 0;
  for (; lanes.products - i > Depth; i += Depth) {
    outer_product_block<V, Products>(panel + 4 * i, queries + i * width, Depth, i > 0, scores);
  }
  outer_product_sums<V, Products>(panel + 4 * i, queries + i * width, lanes.products - i,
                                  [&](int row, const FloatVec* sum) HWY_ATTR {
                                    float* to = scores + row * width;
                                    for (int v = 0; v < V; ++v, to += kLanes) {
                                      const FloatVec whole =
                                          i > 0 ? hn::Add(sum[v], hn::Load(d, to)) : sum[v];
                                      const FloatVec x = Products::score(whole, times);
                                      hn::Store(x, d, to);
                                      top[v] = hn::Max(top[v], x);
                                    }
                                  });
  if (Products::kTerms == 1 || lanes.floats == 0) return;
  for (int v = 0; v < V; ++v) top[v] = before[v];  // those were no whole scores
  outer_product_sums<V>(panel + 4 * lanes.products, queries + lanes.products * width, lanes.floats,
                        [&](int row, const FloatVec* sum) HWY_ATTR {
                          float* to = scores + row * width;
                          for (int v = 0; v < V; ++v, to += kLanes) {
                            const FloatVec x = hn::Add(sum[v], hn::Load(d, to));
                            hn::Store(x, d, to);
                            top[v] = hn::Max(top[v], x);
                          }
                        });
}

// Scores of `count` keys become weights, which stand in their place, as lanes of products with
// values: [key][V vectors], or pairs of keys. weight(x) turns those of a key or two, V vectors
// each. The weights' sums are added to total.
template <int V, typename Products, typename Weight>
HWY_INLINE void make_weights(int64_t count, float* scores, FloatVec* total, const Weight& weight) {
  const FloatTag d;
  constexpr int64_t n = kLanes, width = V * kLanes;
  FloatVec sum[V];
  for (int v = 0; v < V; ++v) sum[v] = hn::Zero(d);
  float* to = scores;
  const auto take = [&](auto keys) HWY_ATTR {
    constexpr int kKeys = keys();
    FloatVec x[kKeys * V];
    for (int i = 0; i < kKeys * V; ++i) x[i] = hn::Load(d, scores + i * n);
    weight(x);
    for (int i = 0; i < kKeys * V; ++i) sum[i % V] = hn::Add(sum[i % V], x[i]);
    if constexpr (Products::kTerms == 1) {
      for (int i = 0; i < kKeys * V; ++i) hn::Store(x[i], d, to + i * n);
      to += kKeys * width;
    } else {
      for (int v = 0; v < V; ++v) {
        const FloatVec second = kKeys == 2 ? x[(kKeys - 1) * V + v] : hn::Zero(d);
        hn::Store(Products::pair(x[v], second), d, to + v * n);
      }
      to += width;
    }
    scores += kKeys * width;
  };
  // More than four vectors at a time would not stay in AVX2's registers.
  constexpr int kEach = V > 2 && Products::kTerms == 1 ? 1 : 2;
  int64_t key = 0;
  for (; key + kEach <= count; key += kEach) take(std::integral_constant<int, kEach>());
  if (key < count) take(std::integral_constant<int, 1>());
  for (int v = 0; v < V; ++v) total[v] = hn::Add(total[v], sum[v]);
}

// Scores of whole keys, V vectors each, become 2^(score - top).
template <int V, typename Products, int N>
HWY_INLINE void exp2_below(const FloatVec* top, FloatVec (&x)[N]) {
  for (int i = 0; i < N; ++i) x[i] = hn::Sub(x[i], top[i % V]);
  Products::exp2(x);
}

// The weights of a softmax whose largest score is top.
template <int V, typename Products = FloatProducts>
HWY_INLINE void sum_weights(int64_t count, const FloatVec* top, float* scores, FloatVec* total) {
  make_weights<V, Products>(count, scores, total,
                            [top](auto& x) HWY_ATTR { exp2_below<V, Products>(top, x); });
}

}  // namespace HWY_NAMESPACE
}  // namespace attnpatch::kernels
HWY_AFTER_NAMESPACE();

#endif  // ATTNPATCH_SCORES_INL_H_
