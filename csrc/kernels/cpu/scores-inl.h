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

#include "kernels/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnpatch::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr float kLog2E = 1.44269504f;
constexpr int64_t kBlockKeys = 128;

// How many keys a block has: all of a row's blocks have the same length, but for the last.
constexpr int64_t block_length(int64_t keys) {
  const int64_t blocks = HWY_MAX((keys + kBlockKeys - 1) / kBlockKeys, 1);
  return round_up((keys + blocks - 1) / blocks, 4);
}

// The running maximum before any key: below all scores but minus infinity, whose keys are none.
constexpr float kNoKey = std::numeric_limits<float>::lowest();

// Scores of four keys, and their maxima with what stands in top. Sums longer than Depth are made of
// several: that is more exact, and slower.
template <int V, int64_t Depth>
HWY_INLINE void score_panel(const float* panel, const float* queries, int64_t size, float* scores,
                            FloatVec* top) {
  const FloatTag d;
  int64_t i = 0;
  for (; size - i > Depth; i += Depth) {
    outer_product_block<V>(panel + 4 * i, queries + i * V * kLanes, Depth, i > 0, scores);
  }
  outer_product_sums<V>(panel + 4 * i, queries + i * V * kLanes, size - i,
                        [&](int row, const FloatVec* sum) HWY_ATTR {
                          float* to = scores + row * V * kLanes;
                          for (int v = 0; v < V; ++v, to += kLanes) {
                            const FloatVec x = i > 0 ? hn::Add(sum[v], hn::Load(d, to)) : sum[v];
                            hn::Store(x, d, to);
                            top[v] = hn::Max(top[v], x);
                          }
                        });
}

// Scores of `count` keys become weights, whose sum is added to total.
template <int V>
HWY_INLINE void sum_weights(int64_t count, const FloatVec* top, float* scores, FloatVec* total) {
  const FloatTag d;
  FloatVec sum[V];
  for (int v = 0; v < V; ++v) sum[v] = hn::Zero(d);
  for (int64_t key = 0; key < count; ++key) {
    for (int v = 0; v < V; ++v, scores += kLanes) {
      const FloatVec weight = exp2_nonpositive(hn::Sub(hn::Load(d, scores), top[v]));
      sum[v] = hn::Add(sum[v], weight);
      hn::Store(weight, d, scores);
    }
  }
  for (int v = 0; v < V; ++v) total[v] = hn::Add(total[v], sum[v]);
}

}  // namespace HWY_NAMESPACE
}  // namespace attnpatch::kernels
HWY_AFTER_NAMESPACE();

#endif  // ATTNPATCH_SCORES_INL_H_
