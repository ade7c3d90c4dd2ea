// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Rows of a tensor in any of its number formats and strides, as contiguous fp32, and back; and the
// transposition between rows and columns of vectors. Included once per instruction set.

#if defined(ATTNPATCH_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNPATCH_ROWS_INL_H_
#undef ATTNPATCH_ROWS_INL_H_
#else
#define ATTNPATCH_ROWS_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>
#include <cstring>

#include "kernels/branch_attention.h"
#include "kernels/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnpatch {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Copies four floats; compiles to one 128-bit move each way.
HWY_INLINE void copy4(const float* from, float* to) { std::memcpy(to, from, 4 * sizeof(float)); }

// fp32 and the two half formats, one vector at a time. Rounding is to nearest even.
struct Float32 {
  using T = float;
  static HWY_INLINE FloatVec load(const T* from) { return hn::LoadU(FloatTag(), from); }
  static HWY_INLINE void store(FloatVec x, T* to) { hn::StoreU(x, FloatTag(), to); }
};

struct Float16 {
  using T = hwy::float16_t;
  using Tag = hn::Rebind<T, FloatTag>;
  static HWY_INLINE FloatVec load(const T* from) {
    return hn::PromoteTo(FloatTag(), hn::LoadU(Tag(), from));
  }
  static HWY_INLINE void store(FloatVec x, T* to) { hn::StoreU(hn::DemoteTo(Tag(), x), Tag(), to); }
};

struct BFloat16 {
  using T = uint16_t;
  using Tag = hn::Rebind<T, FloatTag>;
  using Bits = hn::RebindToUnsigned<FloatTag>;
  static HWY_INLINE FloatVec load(const T* from) {
    const auto wide = hn::PromoteTo(Bits(), hn::LoadU(Tag(), from));
    return hn::BitCast(FloatTag(), hn::ShiftLeft<16>(wide));
  }
  static HWY_INLINE void store(FloatVec x, T* to) {
    const Bits d;
    const auto bits = hn::BitCast(d, x);
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d, 1u));
    const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(d, 0x7FFFu))));
    const auto nan = hn::RebindMask(d, hn::IsNaN(x));
    const auto result = hn::IfThenElse(nan, hn::Set(d, 0x7FC0u), rounded);
    hn::StoreU(hn::DemoteTo(Tag(), hn::BitCast(hn::RebindToSigned<Bits>(), result)), Tag(), to);
  }
};

// One row of `size` values as contiguous fp32: the row itself where it already is that, else
// converted into `scratch`, which holds `size` rounded up to whole vectors.
template <typename Format>
HWY_INLINE const float* load_row(const typename Format::T* row, int64_t stride, int64_t size,
                                 float* scratch) {
  if constexpr (std::is_same_v<Format, Float32>) {
    if (stride == 1) return row;
  }
  const int64_t n = lanes();
  HWY_ALIGN typename Format::T part[kMaxLanes] = {};
  for (int64_t i = 0; i < size; i += n) {
    if (stride == 1 && i + n <= size) {
      hn::StoreU(Format::load(row + i), FloatTag(), scratch + i);
      continue;
    }
    for (int64_t j = 0; j < HWY_MIN(n, size - i); ++j) part[j] = row[(i + j) * stride];
    hn::StoreU(Format::load(part), FloatTag(), scratch + i);
  }
  return scratch;
}

// The way back: `size` floats, readable up to whole vectors, into a row.
template <typename Format>
HWY_INLINE void store_row(const float* values, int64_t size, typename Format::T* row,
                          int64_t stride) {
  const int64_t n = lanes();
  HWY_ALIGN typename Format::T part[kMaxLanes];
  for (int64_t i = 0; i < size; i += n) {
    const FloatVec x = hn::LoadU(FloatTag(), values + i);
    if (stride == 1 && i + n <= size) {
      Format::store(x, row + i);
      continue;
    }
    Format::store(x, part);
    for (int64_t j = 0; j < HWY_MIN(n, size - i); ++j) row[(i + j) * stride] = part[j];
  }
}

// Four columns of one vector each, from `blocks`, which holds lane after lane four values.
HWY_INLINE void columns_from_blocks(const float* blocks, float factor, int64_t width, float* out) {
  const FloatTag d;
  FloatVec a, b, c, e;
  hn::LoadInterleaved4(d, blocks, a, b, c, e);
  const FloatVec f = hn::Set(d, factor);
  hn::Store(hn::Mul(a, f), d, out + 0 * width);
  hn::Store(hn::Mul(b, f), d, out + 1 * width);
  hn::Store(hn::Mul(c, f), d, out + 2 * width);
  hn::Store(hn::Mul(e, f), d, out + 3 * width);
}

HWY_INLINE void blocks_from_columns(const float* columns, int64_t width, float* blocks) {
  const FloatTag d;
  hn::StoreInterleaved4(hn::Load(d, columns + 0 * width), hn::Load(d, columns + 1 * width),
                        hn::Load(d, columns + 2 * width), hn::Load(d, columns + 3 * width), d,
                        blocks);
}

}  // namespace HWY_NAMESPACE
}  // namespace attnpatch
HWY_AFTER_NAMESPACE();

#endif  // ATTNPATCH_ROWS_INL_H_
