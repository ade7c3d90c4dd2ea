// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Vector arithmetic that the attention kernels share. Included once per instruction set.

#if defined(ATTNPATCH_VECTOR_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNPATCH_VECTOR_MATH_INL_H_
#undef ATTNPATCH_VECTOR_MATH_INL_H_
#else
#define ATTNPATCH_VECTOR_MATH_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>

HWY_BEFORE_NAMESPACE();
namespace attnpatch {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::ScalableTag<float>;
using FloatVec = hn::Vec<FloatTag>;

constexpr int64_t kMaxLanes = static_cast<int64_t>(hn::MaxLanes(FloatTag()));

HWY_INLINE int64_t lanes() { return static_cast<int64_t>(hn::Lanes(FloatTag())); }

// 2^x for x <= 0, relative error below 1e-7. A minimax polynomial of degree 6 for the fraction in
// [-1/2, 1/2]; the whole part goes into the exponent. Below 2^-126 the result stays there: next to
// the largest exponential, which is 1, that is zero. A NaN stays a NaN: it is the second operand of
// Max.
HWY_INLINE FloatVec exp2_nonpositive(FloatVec x) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  x = hn::Max(hn::Set(d, -126.0f), x);
  const FloatVec whole = hn::Round(x);
  const FloatVec f = hn::Sub(x, whole);
  FloatVec p = hn::Set(d, 1.53458118e-4f);
  p = hn::MulAdd(p, f, hn::Set(d, 1.33999309e-3f));
  p = hn::MulAdd(p, f, hn::Set(d, 9.61848907e-3f));
  p = hn::MulAdd(p, f, hn::Set(d, 5.55032864e-2f));
  p = hn::MulAdd(p, f, hn::Set(d, 2.40226462e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, 6.93147182e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, 1.0f));
  const auto exponent = hn::ShiftLeft<23>(hn::ConvertTo(di, whole));
  return hn::BitCast(d, hn::Add(hn::BitCast(di, p), exponent));
}

// out[4][V vectors] = sum over i < depth of panel[i][4] ⊗ columns[i][V vectors].
// Registers: 4·V accumulators, V columns, one broadcast: 16 for V = 3, 21 for V = 4.
template <int V>
HWY_INLINE void outer_product(const float* HWY_RESTRICT panel, const float* HWY_RESTRICT columns,
                              int64_t depth, int64_t width, float* HWY_RESTRICT out) {
  const FloatTag d;
  const int64_t n = lanes();
  FloatVec sum0[V], sum1[V], sum2[V], sum3[V];
  for (int v = 0; v < V; ++v) sum0[v] = sum1[v] = sum2[v] = sum3[v] = hn::Zero(d);
  for (int64_t i = 0; i < depth; ++i, panel += 4, columns += width) {
    FloatVec column[V];
    for (int v = 0; v < V; ++v) column[v] = hn::Load(d, columns + v * n);
    const FloatVec a0 = hn::Set(d, panel[0]);
    for (int v = 0; v < V; ++v) sum0[v] = hn::MulAdd(a0, column[v], sum0[v]);
    const FloatVec a1 = hn::Set(d, panel[1]);
    for (int v = 0; v < V; ++v) sum1[v] = hn::MulAdd(a1, column[v], sum1[v]);
    const FloatVec a2 = hn::Set(d, panel[2]);
    for (int v = 0; v < V; ++v) sum2[v] = hn::MulAdd(a2, column[v], sum2[v]);
    const FloatVec a3 = hn::Set(d, panel[3]);
    for (int v = 0; v < V; ++v) sum3[v] = hn::MulAdd(a3, column[v], sum3[v]);
  }
  for (int v = 0; v < V; ++v) {
    hn::Store(sum0[v], d, out + 0 * width + v * n);
    hn::Store(sum1[v], d, out + 1 * width + v * n);
    hn::Store(sum2[v], d, out + 2 * width + v * n);
    hn::Store(sum3[v], d, out + 3 * width + v * n);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace attnpatch
HWY_AFTER_NAMESPACE();

#endif  // ATTNPATCH_VECTOR_MATH_INL_H_
