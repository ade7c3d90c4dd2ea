// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Rows of keys and values as the panels that outer_product_sums takes. Included once per
// instruction set.

#if defined(ATTNPATCH_PANELS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNPATCH_PANELS_INL_H_
#undef ATTNPATCH_PANELS_INL_H_
#else
#define ATTNPATCH_PANELS_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>
#include <cstring>

#include "kernels/cpu/products-inl.h"
#include "kernels/cpu/rows-inl.h"
#include "kernels/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnpatch::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Four rows of keys as a panel [channel][4].
HWY_INLINE void pack_panel(const float* const rows[4], int64_t size, float* panel) {
  const FloatTag d;
  constexpr int64_t n = kLanes;
  int64_t c = 0;
  for (; c + n <= size; c += n) {
    hn::StoreInterleaved4(hn::LoadU(d, rows[0] + c), hn::LoadU(d, rows[1] + c),
                          hn::LoadU(d, rows[2] + c), hn::LoadU(d, rows[3] + c), d, panel + 4 * c);
  }
  for (; c < size; ++c) {
    for (int i = 0; i < 4; ++i) panel[4 * c + i] = rows[i][c];
  }
}

// Four rows of values, `key` being the number of the first, into every panel [key][4 channels];
// `keys`, a multiple of 4, is the length of a panel. `real` of the rows are of keys.
HWY_INLINE void pack_values(FloatProducts, const float* const rows[4], int64_t /*real*/,
                            int64_t key, int64_t keys, int64_t size, float* values) {
  float* column = values + 4 * key;
  int64_t c = 0;
  for (; c + 4 <= size; c += 4, column += 4 * keys) {
    for (int i = 0; i < 4; ++i) copy4(rows[i] + c, column + 4 * i);
  }
  if (c == size) return;
  for (int i = 0; i < 16; ++i) column[i] = c + i % 4 < size ? rows[i / 4][c + i % 4] : 0.0f;
}

#if ATTNPATCH_BFLOAT16_PAIRS
// The same of rows of bf16, as [pair of keys][4 channels]; what a pair lacks is zero, so that a
// weight of zero leaves nothing of it.
HWY_INLINE void pack_values(BFloat16Products, const float* const rows[4], int64_t real, int64_t key,
                            int64_t keys, int64_t size, float* values) {
  const hn::FixedTag<uint16_t, 8> d;
  const hn::FixedTag<float, 4> to;
  const uint16_t* from[4];
  for (int i = 0; i < 4; ++i) from[i] = reinterpret_cast<const uint16_t*>(rows[i]);
  float* column = values + 2 * key;
  int64_t c = 0;
  for (; c + 8 <= size; c += 8, column += 4 * keys) {
    for (int i = 0; i < 4; i += 2) {
      const auto first = hn::LoadU(d, from[i] + c);
      const auto second = i + 1 < real ? hn::LoadU(d, from[i + 1] + c) : hn::Zero(d);
      const auto low = hn::InterleaveLower(d, first, second);
      const auto high = hn::InterleaveUpper(d, first, second);
      hn::StoreU(hn::BitCast(to, low), to, column + 2 * i);
      hn::StoreU(hn::BitCast(to, high), to, column + 2 * keys + 2 * i);
    }
  }
  for (; c < size; c += 4, column += 2 * keys) {
    uint16_t pairs[2][4][2] = {};
    for (int i = 0; i < HWY_MIN(real, int64_t{4}); ++i) {
      for (int64_t j = 0; j < HWY_MIN(size - c, int64_t{4}); ++j) {
        pairs[i / 2][j][i % 2] = from[i][c + j];
      }
    }
    std::memcpy(column, pairs, sizeof(pairs));
  }
}
#endif

}  // namespace HWY_NAMESPACE
}  // namespace attnpatch::kernels
HWY_AFTER_NAMESPACE();

#endif  // ATTNPATCH_PANELS_INL_H_
