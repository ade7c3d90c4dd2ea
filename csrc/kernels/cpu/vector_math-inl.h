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
namespace attnpatch::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::ScalableTag<float>;
using FloatVec = hn::Vec<FloatTag>;

// No target of ours has vectors whose length is known only at run time.
constexpr int64_t kLanes = static_cast<int64_t>(hn::MaxLanes(FloatTag()));

// The larger of a bound and x, or x where it is a NaN, on every target. Highway leaves open what
// its Max makes of a NaN: on Arm, and without vectors, the other operand. The instruction of x86
// gives the second operand by definition, which saves the comparison there.
HWY_INLINE FloatVec at_least(FloatVec bound, FloatVec x) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2  // better targets have lower numbers
  return hn::Max(bound, x);
#else
  return hn::IfThenElse(hn::Lt(x, bound), bound, x);
#endif
}

// A NaN's rule in all softmaxes here: a query one of whose scores is a NaN gets NaNs. The maximum
// of the scores may lose it (Max above); the exponential of that score does not, and with it the
// sum by which all are divided.

// 2^x for x <= 0 by a polynomial for |f| <= 1/2, its highest power first: x = whole + f, 2^f times
// 2^whole. Adding 1.5 * 2^23 + 127 rounds to a whole number, which then stands in the sum's lowest
// bits as an exponent. Below -126 the result stays there: next to the largest exponential, which is
// 1, that is zero. A NaN stays a NaN, whatever its bits: it goes through the polynomial and a
// product.
// Several at a time, step by step: AVX2's registers do not hold the powers, and so each is read
// once.
template <int64_t Count, int N>
HWY_INLINE void exp2_by(const float (&powers)[Count], FloatVec (&x)[N]) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  const FloatVec magic = hn::Set(d, 12583039.0f);
  FloatVec shifted[N], p[N];
  for (int n = 0; n < N; ++n) {
    x[n] = at_least(hn::Set(d, -126.0f), x[n]);
    shifted[n] = hn::Add(x[n], magic);
    x[n] = hn::Sub(x[n], hn::Sub(shifted[n], magic));
    p[n] = hn::Set(d, powers[0]);
  }
  for (int64_t i = 1; i < Count; ++i) {
    for (int n = 0; n < N; ++n) p[n] = hn::MulAdd(p[n], x[n], hn::Set(d, powers[i]));
  }
  for (int n = 0; n < N; ++n) {
    x[n] = hn::Mul(p[n], hn::BitCast(d, hn::ShiftLeft<23>(hn::BitCast(di, shifted[n]))));
  }
}

// By minimax polynomials: to a relative error below 1e-7, and, for what is rounded to fewer bits,
// below 3e-6.
template <int N>
HWY_INLINE void exp2_nonpositive(FloatVec (&x)[N]) {
  constexpr float kPowers[] = {0.000154614448f,
                               0.00134004280f,
                               0.00961805694f,
                               0.0555032715f,
                               0.240226507f,
                               0.693147182f,
                               1.0f};
  exp2_by(kPowers, x);
}

template <int N>
HWY_INLINE void coarse_exp2_nonpositive(FloatVec (&x)[N]) {
  constexpr float kPowers[] = {0.00957010221f, 0.0559178591f, 0.240247443f, 0.693121791f,
                               0.999999285f};
  exp2_by(kPowers, x);
}

// Of one vector.
HWY_INLINE FloatVec exp2_nonpositive(FloatVec x) {
  FloatVec one[1] = {x};
  exp2_nonpositive(one);
  return one[0];
}

}  // namespace HWY_NAMESPACE
}  // namespace attnpatch::kernels
HWY_AFTER_NAMESPACE();

#endif  // ATTNPATCH_VECTOR_MATH_INL_H_
