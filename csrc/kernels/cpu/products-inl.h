// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Sums of outer products, of fp32 numbers or of pairs of bf16. Included once per instruction set.

#if defined(ATTNPATCH_PRODUCTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNPATCH_PRODUCTS_INL_H_
#undef ATTNPATCH_PRODUCTS_INL_H_
#else
#define ATTNPATCH_PRODUCTS_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>

#include "kernels/cpu/bfloat16_units.h"
#include "kernels/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnpatch::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// What a lane of two vectors multiplies: one number of each, in fp32. Queries carry the factor of
// the scores.
struct FloatProducts {
  static constexpr int64_t kTerms = 1;
  static HWY_INLINE FloatVec multiply_add(FloatVec a, FloatVec b, FloatVec sum) {
    return hn::MulAdd(a, b, sum);
  }
  static HWY_INLINE FloatVec query(FloatVec x, FloatVec factor) { return hn::Mul(x, factor); }
  static HWY_INLINE FloatVec score(FloatVec sum, FloatVec) { return sum; }
  template <int N>
  static HWY_INLINE void exp2(FloatVec (&x)[N]) {
    exp2_nonpositive(x);
  }
};

// Has this target code that multiplies pairs of bf16?
#undef ATTNPATCH_BFLOAT16_PAIRS
#if ATTNPATCH_AVX512_BF16
#define ATTNPATCH_BFLOAT16_PAIRS (HWY_TARGET <= HWY_AVX3)
#else
#define ATTNPATCH_BFLOAT16_PAIRS \
  (ATTNPATCH_NEON_BF16 && HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128)
#endif

#if ATTNPATCH_BFLOAT16_PAIRS
// Two numbers of each, in bf16, the first in the lower half; products and sums are fp32, in which
// numbers below the smallest normal one count as 0. Queries stay as they are, so that products are
// exact: the scores get the factor.
struct BFloat16Products {
  static constexpr int64_t kTerms = 2;
  static HWY_INLINE FloatVec multiply_add(FloatVec a, FloatVec b, FloatVec sum) {
#if ATTNPATCH_NEON_BF16
    asm(".arch_extension bf16\n\tbfdot %0.4s, %1.8h, %2.8h"
        : "+w"(sum.raw)
        : "w"(a.raw), "w"(b.raw));
#else
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum.raw) : "v"(a.raw), "v"(b.raw));
#endif
    return sum;
  }
  static HWY_INLINE FloatVec query(FloatVec x, FloatVec) { return x; }
  static HWY_INLINE FloatVec score(FloatVec sum, FloatVec factor) { return hn::Mul(sum, factor); }
  template <int N>
  static HWY_INLINE void exp2(FloatVec (&x)[N]) {
    coarse_exp2_nonpositive(x);
  }

  // Two weights, rounded to the nearest; of two as near, to the larger. What a NaN becomes is left
  // open: the sum of the weights, by which all are divided, is a NaN.
  static HWY_INLINE FloatVec pair(FloatVec first, FloatVec second) {
    const hn::RebindToUnsigned<FloatTag> d;
    const hn::Repartition<uint16_t, FloatTag> half;
    const auto round = hn::Set(d, 0x8000u);
    const auto low = hn::ShiftRight<16>(hn::Add(hn::BitCast(d, first), round));
    const auto high = hn::Add(hn::BitCast(d, second), round);
    return hn::BitCast(FloatTag(), hn::OddEven(hn::BitCast(half, high), hn::BitCast(half, low)));
  }
};
#endif

// Lanes that hold so many numbers.
template <typename Products>
constexpr int64_t lanes_of(int64_t numbers) {
  return (numbers + Products::kTerms - 1) / Products::kTerms;
}

// sums[4][V vectors] = sum over i < depth of panel[i][4] ⊗ columns[i][V vectors], handed row by row
// to put(row, sums of the row). Registers: 4·V accumulators, V columns, one broadcast: 11 for V =
// 2, 21 for V = 4. Unrolled: counting the loop is a quarter of its instructions, which costs time
// where a second thread shares the core.
template <int V, typename Products = FloatProducts, typename Put>
HWY_INLINE void outer_product_sums(const float* HWY_RESTRICT panel,
                                   const float* HWY_RESTRICT columns, int64_t depth,
                                   const Put& put) {
  const FloatTag d;
  constexpr int64_t n = kLanes;
  FloatVec sum0[V], sum1[V], sum2[V], sum3[V];
  for (int v = 0; v < V; ++v) sum0[v] = sum1[v] = sum2[v] = sum3[v] = hn::Zero(d);
  HWY_UNROLL(4)
  for (int64_t i = 0; i < depth; ++i, panel += 4, columns += V * n) {
    FloatVec column[V];
    for (int v = 0; v < V; ++v) column[v] = hn::Load(d, columns + v * n);
    const FloatVec a0 = hn::Set(d, panel[0]);
    for (int v = 0; v < V; ++v) sum0[v] = Products::multiply_add(a0, column[v], sum0[v]);
    const FloatVec a1 = hn::Set(d, panel[1]);
    for (int v = 0; v < V; ++v) sum1[v] = Products::multiply_add(a1, column[v], sum1[v]);
    const FloatVec a2 = hn::Set(d, panel[2]);
    for (int v = 0; v < V; ++v) sum2[v] = Products::multiply_add(a2, column[v], sum2[v]);
    const FloatVec a3 = hn::Set(d, panel[3]);
    for (int v = 0; v < V; ++v) sum3[v] = Products::multiply_add(a3, column[v], sum3[v]);
  }
  put(0, sum0);
  put(1, sum1);
  put(2, sum2);
  put(3, sum3);
}

// The sums into out[4][V vectors], on top of what stands there if `more`.
template <int V, typename Products = FloatProducts>
HWY_INLINE void outer_product_block(const float* panel, const float* columns, int64_t depth,
                                    bool more, float* HWY_RESTRICT out) {
  const FloatTag d;
  outer_product_sums<V, Products>(
      panel, columns, depth, [&](int row, const FloatVec* sum) HWY_ATTR {
        float* to = out + row * V * kLanes;
        for (int v = 0; v < V; ++v, to += kLanes) {
          hn::Store(more ? hn::Add(sum[v], hn::Load(d, to)) : sum[v], d, to);
        }
      });
}

}  // namespace HWY_NAMESPACE
}  // namespace attnpatch::kernels
HWY_AFTER_NAMESPACE();

#endif  // ATTNPATCH_PRODUCTS_INL_H_
