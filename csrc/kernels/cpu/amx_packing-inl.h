// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Queries, keys and values in bf16 as the tiles of AMX. Included once per instruction set.

#if defined(ATTNPATCH_AMX_PACKING_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNPATCH_AMX_PACKING_INL_H_
#undef ATTNPATCH_AMX_PACKING_INL_H_
#else
#define ATTNPATCH_AMX_PACKING_INL_H_
#endif

#include <hwy/highway.h>

#include "kernels/cpu/amx.h"
#include "kernels/cpu/products-inl.h"

// Has this target code for AMX?
#undef ATTNPATCH_AMX_TARGET
#define ATTNPATCH_AMX_TARGET (ATTNPATCH_AMX && ATTNPATCH_BFLOAT16_PAIRS)

#if ATTNPATCH_AMX_TARGET

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/rows-inl.h"
#include "kernels/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnpatch::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr int64_t kMatrixRows = 2 * amx::kRows;  // queries at a time
constexpr int64_t kMatrixKeys = amx::kTerms;     // keys are packed by as many

// How a head's channels fill tiles: as terms of scores, and as columns of results.
struct MatrixShape {
  int64_t size, terms, columns;

  explicit MatrixShape(int64_t head_size)
      : size(head_size),
        terms((head_size + amx::kTerms - 1) / amx::kTerms),
        columns((head_size + amx::kRows - 1) / amx::kRows) {}

  int64_t query_numbers() const { return terms * amx::kTerms; }  // of a query's row
  int64_t out_floats() const { return columns * amx::kRows; }    // of a result's

  // Of a packed key and its value.
  int64_t key_floats() const { return (query_numbers() + out_floats()) / 2; }
};

// Keys and values packed, 32 at a time, as tiles: of keys [16 keys][32 channels], of values
// [32 keys][16 channels].
struct MatrixKeys {
  float *keys, *values;

  MatrixKeys(float* memory, int64_t padded_keys, const MatrixShape& shape)
      : keys(memory), values(memory + padded_keys * shape.query_numbers() / 2) {}

  MatrixKeys from(int64_t key, const MatrixShape& shape) const {
    MatrixKeys later = *this;
    later.keys += key * shape.query_numbers() / 2;
    later.values += key * shape.out_floats() / 2;
    return later;
  }
};

// A row as bf16, filled up with zeros to whole tiles, which are whole vectors.
HWY_INLINE void copy_whole_row(const uint16_t* row, int64_t stride, const MatrixShape& shape,
                               uint16_t* copy) {
  static_assert(amx::kTerms == 2 * kLanes);
  copy_row(row, stride, shape.size, reinterpret_cast<float*>(copy));
}

// The same, or the row itself where it is whole tiles.
HWY_INLINE const uint16_t* whole_row(const uint16_t* row, int64_t stride, const MatrixShape& shape,
                                     uint16_t* copy) {
  if (stride == 1 && shape.size == shape.query_numbers()) return row;
  copy_whole_row(row, stride, shape, copy);
  return copy;
}

// Packs `count` keys; row(i) is the KeyRow of key i. What the last tiles lack is the last key once
// more, which changes no maximum, and zeros for values; but values of 16 keys or fewer stand twice,
// from the first key on and from the 17th, there without what is infinite or not a number.
// `scratch` holds 32 whole rows.
template <typename Row>
void pack_matrices(int64_t count, const Row& row, const MatrixShape& shape, const MatrixKeys& to,
                   uint16_t* scratch) {
  const hn::RebindToUnsigned<FloatTag> d;
  const hn::Rebind<uint16_t, FloatTag> half;
  const int64_t numbers = shape.query_numbers();
  for (int64_t key = 0; key < count; key += kMatrixKeys) {
    const MatrixKeys part = to.from(key, shape);
    for (int64_t first = 0; first < HWY_MIN(kMatrixKeys, count - key); first += amx::kRows) {
      const float* rows[amx::kRows];
      for (int64_t i = 0; i < amx::kRows; ++i) {
        const auto from = row(HWY_MIN(key + first + i, count - 1));
        rows[i] = reinterpret_cast<const float*>(
            whole_row(from.k, from.k_stride, shape, scratch + i * numbers));
      }
      columns_from_rows<BFloat16Products>(rows, numbers / 2, 1.0f, amx::kRows,
                                          part.keys + first * numbers / 2);
    }
    const uint16_t* rows[kMatrixKeys] = {};
    for (int64_t i = 0; i < HWY_MIN(kMatrixKeys, count - key); ++i) {
      const auto from = row(key + i);
      rows[i] = whole_row(from.v, from.v_stride, shape, scratch + i * numbers);
    }
    const bool twice = count <= amx::kRows;
    if (twice) std::copy_n(rows, amx::kRows, rows + amx::kRows);
    const auto load = [&](int64_t i, int64_t channel) HWY_ATTR {
      if (rows[i] == nullptr) return hn::Zero(d);
      const auto x = hn::PromoteTo(d, hn::LoadU(half, rows[i] + channel));
      const auto exponent = hn::Set(d, 0x7F80u);
      const auto finite = hn::Ne(hn::And(x, exponent), exponent);
      return twice && i >= amx::kRows ? hn::IfThenElseZero(finite, x) : x;
    };
    for (int64_t c = 0; c < shape.columns; ++c) {
      auto* tile = reinterpret_cast<uint32_t*>(part.values + c * amx::kTileFloats);
      for (int64_t i = 0; i < kMatrixKeys; i += 2, tile += amx::kRows) {
        const auto first = load(i, c * amx::kRows), second = load(i + 1, c * amx::kRows);
        hn::Store(hn::Or(first, hn::ShiftLeft<16>(second)), d, tile);
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace attnpatch::kernels
HWY_AFTER_NAMESPACE();

#endif  // ATTNPATCH_AMX_TARGET

#endif  // ATTNPATCH_AMX_PACKING_INL_H_
