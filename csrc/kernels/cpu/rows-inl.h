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

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/cpu/bfloat16_units.h"
#include "kernels/cpu/products-inl.h"
#include "kernels/cpu/vector_math-inl.h"
#include "kernels/views.h"

HWY_BEFORE_NAMESPACE();
namespace attnpatch::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

// Where the rows of one head start.
template <typename T>
const T* head_of(const AttentionView& view, int64_t row, int64_t h) {
  return static_cast<const T*>(view.data) + row * view.batch_stride + h * view.head_stride;
}

// A key's row and its value's, and how far their channels lie apart.
template <typename T>
struct KeyRow {
  const T *k, *v;
  int64_t k_stride, v_stride;
};

// Copies four floats; compiles to one 128-bit move each way.
HWY_INLINE void copy4(const float* from, float* to) { std::memcpy(to, from, 4 * sizeof(float)); }

// fp32 and the two half formats, one vector at a time. Rounding is to nearest even.
struct Float32 {
  using T = float;
  using Products = FloatProducts;
  static HWY_INLINE FloatVec load(const T* from) { return hn::LoadU(FloatTag(), from); }
  static HWY_INLINE void store(FloatVec x, T* to) { hn::StoreU(x, FloatTag(), to); }
};

struct Float16 {
  using T = hwy::float16_t;
  using Products = FloatProducts;
  using Tag = hn::Rebind<T, FloatTag>;
  static HWY_INLINE FloatVec load(const T* from) {
    return hn::PromoteTo(FloatTag(), hn::LoadU(Tag(), from));
  }
  static HWY_INLINE void store(FloatVec x, T* to) { hn::StoreU(hn::DemoteTo(Tag(), x), Tag(), to); }
};

struct BFloat16 {
  using T = uint16_t;
  using Products = FloatProducts;
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

#if ATTNPATCH_BFLOAT16_PAIRS
// bf16 whose products need no conversion.
struct BFloat16Pairs : BFloat16 {
  using Products = BFloat16Products;
};

// The same, for code that multiplies tiles.
struct BFloat16Tiles : BFloat16Pairs {};
#endif

// Calls body with the format of a dtype as its template argument.
template <class Body>
void with_dtype(Dtype dtype, const Body& body) {
  switch (dtype) {
    case Dtype::kFloat32:
      return body.template operator()<Float32>();
    case Dtype::kFloat16:
      return body.template operator()<Float16>();
    case Dtype::kBFloat16:
      return body.template operator()<BFloat16>();
  }
}

// The same, with pairs or tiles where the machine multiplies them.
template <class Body>
void with_products(Dtype dtype, const Body& body) {
#if ATTNPATCH_BFLOAT16_PAIRS
  if (dtype == Dtype::kBFloat16 && bfloat16_unit() != BFloat16Unit::kNone) {
    if (bfloat16_unit() == BFloat16Unit::kTiles) return body.template operator()<BFloat16Tiles>();
    return body.template operator()<BFloat16Pairs>();
  }
#endif
  with_dtype(dtype, body);
}

// One row of `size` values as contiguous fp32, the last vector filled up with zeros.
template <typename Format>
HWY_INLINE void convert_row(const typename Format::T* row, int64_t stride, int64_t size,
                            float* out) {
  int64_t i = 0;
  if (stride == 1) {
    for (; i + kLanes <= size; i += kLanes) hn::StoreU(Format::load(row + i), FloatTag(), out + i);
  }
  if constexpr (std::is_same_v<Format, Float32>) {
    const int64_t whole = round_up(size, kLanes);
    for (; i < size; ++i) out[i] = row[i * stride];
    for (; i < whole; ++i) out[i] = 0.0f;
    return;
  }
  // Several vectors at a time, so that none is loaded right after the stores that it waits for.
  constexpr int64_t kPart = 8 * kLanes;
  HWY_ALIGN typename Format::T part[kPart];
  for (; i < size; i += kPart) {
    const int64_t some = HWY_MIN(kPart, size - i), whole = round_up(some, kLanes);
    for (int64_t j = 0; j < some; ++j) part[j] = row[(i + j) * stride];
    for (int64_t j = some; j < whole; ++j) part[j] = typename Format::T{};
    for (int64_t j = 0; j < whole; j += kLanes) {
      hn::StoreU(Format::load(part + j), FloatTag(), out + i + j);
    }
  }
}

// A row as it is, contiguous, the last vector of floats filled up with zeros.
template <typename T>
HWY_INLINE void copy_row(const T* row, int64_t stride, int64_t size, float* out) {
  const hn::Repartition<T, FloatTag> d;
  constexpr int64_t n = static_cast<int64_t>(hn::MaxLanes(hn::Repartition<T, FloatTag>()));
  T* to = reinterpret_cast<T*>(out);
  const int64_t whole = size / n * n;
  if (size > whole) hn::StoreU(hn::Zero(d), d, to + whole);
  if (stride == 1 && size >= n) {
    for (int64_t i = 0; i < whole; i += n) hn::StoreU(hn::LoadU(d, row + i), d, to + i);
    hn::StoreU(hn::LoadU(d, row + size - n), d, to + size - n);  // with the rest
  } else {
    for (int64_t i = 0; i < size; ++i) to[i] = row[i * stride];
  }
}

// Are rows, which are contiguous, lanes of the format's products as they stand?
template <typename Format>
constexpr bool kRowsAreLanes = sizeof(typename Format::T) * Format::Products::kTerms ==
                               sizeof(float);

// A row as lanes of the format's products, fp32 or pairs, the last vector filled up with zeros.
template <typename Format>
HWY_INLINE void copy_lanes(const typename Format::T* row, int64_t stride, int64_t size,
                           float* out) {
  if constexpr (kRowsAreLanes<Format>) {
    copy_row(row, stride, size, out);
  } else {
    convert_row<Format>(row, stride, size, out);
  }
}

// The same, or the row itself where it is such lanes.
template <typename Format>
HWY_INLINE const float* load_lanes(const typename Format::T* row, int64_t stride, int64_t size,
                                   float* scratch) {
  if constexpr (kRowsAreLanes<Format>) {
    if (stride == 1 && size % Format::Products::kTerms == 0) {
      return reinterpret_cast<const float*>(row);
    }
  }
  copy_lanes<Format>(row, stride, size, scratch);
  return scratch;
}

// The way back: `size` floats, readable up to whole vectors, into a row.
template <typename Format>
HWY_INLINE void store_row(const float* values, int64_t size, typename Format::T* row,
                          int64_t stride) {
  constexpr int64_t n = kLanes;
  HWY_ALIGN typename Format::T part[kLanes];
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

#if HWY_TARGET == HWY_SCALAR

template <typename Products>
HWY_INLINE void columns_from_rows(const float* const rows[1], int64_t size, float factor,
                                  int64_t width, float* out) {
  for (int64_t c = 0; c < size; ++c) out[c * width] = rows[0][c] * factor;
}

HWY_INLINE void rows_from_columns(const float* columns, int64_t size, int64_t width,
                                  float* const rows[1]) {
  for (int64_t c = 0; c < size; ++c) rows[0][c] = columns[c * width];
}

#else

// Transposes the 4x4 values in each 128-bit block of four vectors.
HWY_INLINE void transpose_blocks(FloatVec x[4]) {
  const FloatTag d;
  const FloatVec a = hn::InterleaveLower(d, x[0], x[2]), b = hn::InterleaveLower(d, x[1], x[3]);
  const FloatVec c = hn::InterleaveUpper(d, x[0], x[2]), e = hn::InterleaveUpper(d, x[1], x[3]);
  x[0] = hn::InterleaveLower(d, a, b);
  x[1] = hn::InterleaveUpper(d, a, b);
  x[2] = hn::InterleaveLower(d, c, e);
  x[3] = hn::InterleaveUpper(d, c, e);
}

// A vector of blocks of four values, one from each of rows[0], rows[4], rows[8], and so on.
template <class D>
HWY_INLINE hn::Vec<D> load_blocks(D d, const float* const* rows, int64_t column) {
  if constexpr (hn::MaxLanes(D()) <= 4) {
    return hn::LoadU(d, rows[0] + column);
  } else {
    const hn::Half<D> half;
    constexpr int64_t kHalf = static_cast<int64_t>(hn::MaxLanes(D())) / 2;
    return hn::Combine(d, load_blocks(half, rows + kHalf, column), load_blocks(half, rows, column));
  }
}

template <class D>
HWY_INLINE void store_blocks(D d, hn::Vec<D> x, float* const* rows, int64_t column) {
  if constexpr (hn::MaxLanes(D()) <= 4) {
    hn::StoreU(x, d, rows[0] + column);
  } else {
    const hn::Half<D> half;
    constexpr int64_t kHalf = static_cast<int64_t>(hn::MaxLanes(D())) / 2;
    store_blocks(half, hn::LowerHalf(half, x), rows, column);
    store_blocks(half, hn::UpperHalf(half, x), rows + kHalf, column);
  }
}

// out[channel][lane] = rows[lane][channel], times the factor where queries carry it; `size` is a
// multiple of 4, `width` a row of out.
template <typename Products>
HWY_INLINE void columns_from_rows(const float* const rows[kLanes], int64_t size, float factor,
                                  int64_t width, float* out) {
  const FloatTag d;
  const FloatVec f = hn::Set(d, factor);
  for (int64_t c = 0; c < size; c += 4) {
    FloatVec x[4];
    for (int i = 0; i < 4; ++i) x[i] = load_blocks(d, rows + i, c);
    transpose_blocks(x);
    for (int i = 0; i < 4; ++i) hn::Store(Products::query(x[i], f), d, out + (c + i) * width);
  }
}

// The way back, without a factor.
HWY_INLINE void rows_from_columns(const float* columns, int64_t size, int64_t width,
                                  float* const rows[kLanes]) {
  const FloatTag d;
  for (int64_t c = 0; c < size; c += 4) {
    FloatVec x[4];
    for (int i = 0; i < 4; ++i) x[i] = hn::Load(d, columns + (c + i) * width);
    transpose_blocks(x);
    for (int i = 0; i < 4; ++i) store_blocks(d, x[i], rows + i, c);
  }
}

#endif  // HWY_TARGET == HWY_SCALAR

}  // namespace HWY_NAMESPACE
}  // namespace attnpatch::kernels
HWY_AFTER_NAMESPACE();

#endif  // ATTNPATCH_ROWS_INL_H_
